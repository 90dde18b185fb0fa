# Makes the machine of a page, and runs the page on it: `machine.sh SCRIPT SOURCE DIRECTORY-OF-THE-PROGRAM`, as root, in namespaces of its own.
# Its files are those of this machine, and all that is written stays in memory.
set -e
page=$1 source=$2 program=$3
mount --make-rprivate /
mkdir "$HOME/machine"
mount -t tmpfs -o mode=755 none "$HOME/machine"
cd "$HOME/machine"
mkdir up work root
mount -t overlay overlay -o "lowerdir=/,upperdir=$PWD/up,workdir=$PWD/work" root
cd root
for place in /dev /sys "$HOME" "$source" "$program"; do
  mkdir -p ".$place"
  # Not what is mounted in the home: that is this machine.
  if [ "$place" = "$HOME" ]; then mount --bind "$place" ".$place"; else mount --rbind "$place" ".$place"; fi
done
mount -t proc none proc
mount -t tmpfs -o mode=755 none run
mount -t tmpfs none tmp -o mode=1777
mkdir -p ".$HOME" run/netns
mount --bind "$HOME" ".$HOME"
# No index of manual pages is made when a package is installed.
rm -f etc/resolv.conf etc/hosts var/lib/man-db/auto-update
echo '127.0.0.1 localhost' >etc/hosts
sed -i '/^hosts:/d' etc/nsswitch.conf
echo 'hosts: files dns' >>etc/nsswitch.conf
mkdir -p etc/balance var/lib/balance var/log/nginx
cp "$source/tests/suite/docs/systemctl" usr/bin/systemctl
exec chroot . bash "$page" "$source"
