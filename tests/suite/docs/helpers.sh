# What a page begins with, on its machine, and the commands that only hidden steps use. The head of tests/suite/docs.rs says what they do.
exec 2>&1 </dev/null
source=$1
cd "$HOME"
unset BALANCE_RUN_DIR XDG_RUNTIME_DIR
ip link set lo up

machine() {
  ip netns add "$1"
  ip link add "$1" type veth peer name eth0 netns "$1"
  ip -n "$1" link set lo up
  ip -n "$1" address add "$3" dev eth0
  ip -n "$1" link set eth0 up
  ip address add "$2" dev "$1"
  ip link set "$1" up
  eval "$1() { nsenter --net=/run/netns/$1 \"\$@\"; }"
}
on() { nsenter --net="/run/netns/$1" bash -s; }
listens() {
  for place; do
    until for net in "" /run/netns/*; do
      ${net:+nsenter --net=$net} ss -Hltn "src $place"
    done | grep -q .; do sleep 0.02; done
  done
}
says() { until eval "$2" 2>&1 | grep -q -e "$1"; do sleep 0.02; done; }
known() { for name; do grep -q " $name\$" /etc/hosts || echo "192.0.2.$((++known_names)) $name" >>/etc/hosts; done; }
accepted() {
  balance() { case " $* " in *" -c "* | *" -i "*) ;; *) command balance --check-only "$@" 2>&1 ;; esac; }
  said=$(eval "$(cat)") || echo "$said"
  unset -f balance
}

machine far 10.1.1.254/24 10.1.1.253/24
web() {
  ip -n far address add "${2%:*}/24" dev eth0 2>/dev/null
  sed -i "/^192\\.0\\.2\\..* $1\$/d" /etc/hosts
  grep -q " $1\$" /etc/hosts || echo "${2%:*} $1" >>/etc/hosts
  mkdir -p ".web/$1"
  echo "hello from $1" >".web/$1/index.html"
  nsenter --net=/run/netns/far python3 -m http.server --bind "${2%:*}" --directory ".web/$1" "${2#*:}" >/dev/null 2>&1 &
  eval "pid_$1=$!"
  listens "$2"
}
dies() { eval "kill -9 \$pid_$1; wait \$pid_$1" 2>/dev/null; }
holds() {
  python3 -c 'import socket, sys, time
held = [socket.create_connection(("127.0.0.1", int(sys.argv[2]))) for _ in range(int(sys.argv[1]))]
time.sleep(600)' "$@" &
  eval "pid_hold_$2=$!"
  says " ${3:-$1} serving" "balance -c services $2"
}
lets_go() { dies "hold_$1"; }

# The name server of this machine, with these records and no others: `ADDRESS NAME`, or `_SERVICE.NAME PRIORITY WEIGHT PORT HOST`.
answers() {
  fails
  echo 'nameserver 127.0.0.1' >/etc/resolv.conf
  : >.answers
  : >.addresses
  for record; do
    set -- $record
    case $1 in
      _*) echo "srv-host=$1,$5,$4,$2,$3" ;;
      *) echo "$record" >>.addresses ;;
    esac >>.answers
  done
  dnsmasq --keep-in-foreground --conf-file="$HOME/.answers" --addn-hosts="$HOME/.addresses" --no-resolv --no-hosts --no-round-robin \
    --local=/internal/ --local=/corp/ --user=root --pid-file= >.dnsmasq 2>&1 &
  pid_dns=$!
  until ss -Hlun 'sport = :53' | grep -q .; do sleep 0.02; done
}
fails() { [ -z "$pid_dns" ] || { kill -9 "$pid_dns"; wait "$pid_dns"; } 2>/dev/null; pid_dns=; }

in_the_source() {
  mkdir -p source/target/release
  cp -r "$source"/{dist,docs,ci,Cargo.toml,balance.1,README.md} source/
  ln -sf "$(type -P balance)" source/target/release/balance
  cd source
}

package() { python3 -B "$source/ci/package" --make "$1" "$(type -P balance)"; }
