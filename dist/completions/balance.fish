complete -c balance -s b -l bind -d 'Listen on this address or host [default: 0.0.0.0]' -r -f -a "(__fish_print_hostnames)"
complete -c balance -l socket-mode -d 'Set the permissions of the Unix socket that the service listens on [default: as the umask leaves them; 660 with --socket-group]' -r -f
complete -c balance -l socket-group -d 'Set the group of the Unix socket that the service listens on [default: that of the process]' -r -f
complete -c balance -s K -l client-keepalive -d 'Set TCP keepalive for connections of clients' -r -f
complete -c balance -l accept-proxy -d 'Take the client\'s address from the PROXY header of these senders [default: none]' -r -f
complete -c balance -l starttls -d 'Answer clients that ask for TLS in this protocol, to see which host they want [default: off]' -r -f -a "postgres\t''"
complete -c balance -l greeting-timeout -d 'Time a client has for its PROXY header or first bytes [default: 3s]' -r -f
complete -c balance -s B -l source -d 'Connect to channels from this address, or from several in turn' -r -f -a "(__fish_print_hostnames)"
complete -c balance -s t -l connect-timeout -d 'Time a channel has to accept a connection [default: 5s]' -r -f
complete -c balance -l race -d 'Also try the next channel when one has not answered after TIME [default: 0 (only after a failure)]' -r -f
complete -c balance -l resolve -d 'Look up the names of channels again every TIME [default: 30s; 0 means only at the start]' -r -f
complete -c balance -l dns -d 'Ask these name servers instead of the system\'s resolver [default: the system\'s resolver]' -r -f
complete -c balance -s T -l idle-timeout -d 'Close a connection after this long without a byte [default: 0 (never)]' -r -f
complete -c balance -l half-close-timeout -d 'Close a half-closed connection after this long without a byte [default: 10m; 0 means never]' -r -f
complete -c balance -s k -l server-keepalive -d 'Set TCP keepalive for connections to channels' -r -f
complete -c balance -l proxy-tlv -d 'Add these values to PROXY headers (version 2): unique-id, crc32c' -r -f
complete -c balance -l policy -d 'Choose a channel by: rr, leastconn, p2c, first or hash [default: rr]' -r -f -a "rr\t''
leastconn\t''
p2c\t''
first\t''
hash\t''"
complete -c balance -l hash-balance -d 'Maximum load of one channel in a hash group, as a multiple of the average' -r -f
complete -c balance -l slow-start -d 'Raise a returning channel\'s share over this time' -r -f
complete -c balance -l first-byte -d 'Eject a channel that sends nothing for TIME while others answer [default: 0 (never)]' -r -f
complete -c balance -l check -d 'Check the channels by: tcp, http:/PATH, send:, expect:, exec:/PROG' -r -f -a "tcp\t''
http:/\t''
expect:\t''
send:\t''
exec:/\t''"
complete -c balance -l check-interval -d 'Time between two checks [default: 2s]' -r -f
complete -c balance -l check-timeout -d 'Time a check may take [default: 1s]' -r -f
complete -c balance -l check-rise -d 'Number of good checks in a row that bring a channel up [default: 2]' -r -f
complete -c balance -l check-fall -d 'Number of failed checks in a row that take a channel down [default: 3]' -r -f
complete -c balance -l check-port -d 'Check this port [default: the channel\'s]' -r -f
complete -c balance -l fail-open -d 'Try channels that are down when all of them are down [default: on]' -r -f -a "on\t''
off\t''"
complete -c balance -l on-down -d 'What to do with connections when their channel goes down [default: keep]' -r -f -a "keep\t''
kick\t''"
complete -c balance -l on-remove -d 'What to do with connections when a reload removes their channel [default: keep]' -r -f -a "keep\t''
kick\t''"
complete -c balance -l event-program -l on-change -d 'Run this program for each event of the service' -r -F
complete -c balance -l allow -d 'Accept only clients from these networks [default: any]' -r -f
complete -c balance -l deny -d 'Refuse clients from these networks [default: none]' -r -f
complete -c balance -l client-max -d 'Maximum number of connections of one client [default: no limit]' -r -f
complete -c balance -l client-rate -d 'Maximum number of new connections of one client in this time [default: no limit]' -r -f
complete -c balance -l client-prefix -d 'Number of address bits that make one client, for IPv4 and IPv6 [default: 32,64]' -r -f
complete -c balance -l max-connections -d 'Maximum number of connections [default: no limit]' -r -f
complete -c balance -l queue -d 'Number of clients that may wait for room [default: 0 (none)]' -r -f
complete -c balance -l queue-timeout -d 'Close a client that has waited this long in the queue [default: 5s]' -r -f
complete -c balance -l pause-timeout -d 'Close a client that has waited this long for a resume [default: 60s]' -r -f
complete -c balance -l max-lifetime -d 'Close a connection at this age [default: 0 (never)]' -r -f
complete -c balance -s c -l command -d 'Send commands, separated by \';\', and print the answers' -r -f -a "create\t''
assign\t''
disable\t''
enable\t''
group\t''
hash\t''
help\t''
kill\t''
maxc\t''
mrtg-bytes\t''
mrtg-conns\t''
quit\t''
reset\t''
rr\t''
show\t''
version\t''
status\t''
drain\t''
wait\t''
kick\t''
remove\t''
weight\t''
policy\t''
sessions\t''
close\t''
save\t''
services\t''
use\t''
reload\t''
reopen\t''
pause\t''
resume\t''
upgrade\t''
events\t''
debug\t''
ready\t''
tap\t''
doctor\t''
top\t''
ended\t''
deny\t''
undeny\t''
denied\t''
resolve\t''"
complete -c balance -l workers -d 'Number of threads that move data [default: one per core]' -r -f
complete -c balance -l busy-poll -d 'Poll for events for a moment before a worker sleeps [default: off]' -r -f -a "on\t''
off\t''"
complete -c balance -l loopback-congestion -d 'Set the congestion control of connections within this host [default: the system\'s]' -r -f
complete -c balance -l drain-timeout -d 'Let connections finish for this long after SIGTERM [default: 30s]' -r -f
complete -c balance -l state -d 'Keep what commands change, in this file, over a restart' -r -F
complete -c balance -l http -d 'Serve a web page, metrics and readiness by HTTP [default: off]' -r -f
complete -c balance -l http-token-file -d 'Accept commands by HTTP from anyone who has the token in this file' -r -F
complete -c balance -l access-log -d 'Write a line about each connection to this file [default: off]' -r -F
complete -c balance -l access-log-format -l log-format -d 'Format of the access log: text or json [default: text]' -r -f -a "text\t''
json\t''"
complete -c balance -l access-log-at -l log-at -d 'Write a line of the access log at: start, end, every TIME [default: end]' -r -f
complete -c balance -l control-group -d 'Let the members of this Unix group control the instance' -r -f
complete -c balance -l user -d 'Run as this unprivileged user' -r -f
complete -c balance -l landlock -d 'Let balance open only the files that it needs [default: on with --user]' -r -f -a "on\t''
off\t''"
complete -c balance -l file -d 'Serve the lines of this file, or of the *.conf files of this directory' -r -F
complete -c balance -l completions -d 'Print a completion script: bash, zsh or fish' -r -f -a "bash\t''
zsh\t''
fish\t''"
complete -c balance -s 6 -l ipv6 -d 'Listen on all IPv6 and all IPv4 addresses'
complete -c balance -l freebind -d 'Listen on the address of -b even while this host does not have it'
complete -c balance -l transparent -d 'Connect to channels from the client\'s own address'
complete -c balance -s a -l disable-on-failure -l autodisable -d 'Disable a channel whose connect fails, until you enable it'
complete -c balance -s H -l hash-failover -d 'Let clients of a hash group go to its other channels when theirs is down'
complete -c balance -l no-eject -d 'Keep using channels whose connect fails'
complete -c balance -l refuse-when-down -d 'Close the port while no channel is usable'
complete -c balance -s i -l interactive -d 'Open an interactive shell'
complete -c balance -l list -d 'List all instances and services on this machine'
complete -c balance -s f -l foreground -d 'Stay in the foreground'
complete -c balance -s d -l debug -d 'Log debug messages to stderr, or to syslog in the background'
complete -c balance -l log-time -d 'Start each log line on stderr with the time'
complete -c balance -s p -l dump -d 'Print all data that passes on stdout (needs -f)'
complete -c balance -l check-only -d 'Check the command line or the files, and start nothing'
complete -c balance -l replace -d 'Take over the ports from the instance that has them'
complete -c balance -s M -l mmap -d 'Accepted and ignored, for old scripts'
complete -c balance -l help -d 'Print this help'
complete -c balance -l version -d 'Print the version'
complete -c balance -l man -d 'Print the manual page (man -l <(balance --man))'
