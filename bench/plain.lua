-- One request after another, made anew each time: as header.lua does, without the header.
function request()
    return wrk.format()
end
