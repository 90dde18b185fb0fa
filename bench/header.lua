-- Requests behind PROXY headers of version 2, as a proxy sends them.
local header = "\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\127\0\0\1\127\0\0\1\x9c\x40\0\80"
local asked = 0

function request()
    asked = asked + 1
    -- wrk looks at the first one itself, and knows no headers.
    return asked > 1 and header .. wrk.format() or wrk.format()
end
