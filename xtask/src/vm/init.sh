#!/bin/busybox sh
# The guest's first process: sets the place up, runs /command, reports how it ended, powers off.
# The kernel's command line names the serial ports: OUT_PORT for the command's stdout, ERR_PORT for its
# stderr, CONTROL_PORT for what xtask reads.
/bin/busybox mkdir -p /bin /dev /proc /sys /tmp /run /root /var
/bin/busybox mount -t devtmpfs dev /dev
exec 3>"/dev/$CONTROL_PORT"
/bin/busybox stty -F "/dev/$CONTROL_PORT" raw -echo
echo ready >&3

/bin/busybox --install -s /bin
export PATH=/bin HOME=/root TERM=dumb
# The live tests ask for it.
export TCPTRACE_BIN=/bin/tcptrace
mkdir -p /dev/pts /dev/shm
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tracefs tracefs /sys/kernel/tracing
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
ip link set lo up
for module in /modules/*; do
    [ -e "$module" ] && insmod "$module"
done
# The ports are terminals: without this each \n would become \r\n.
stty -F "/dev/$OUT_PORT" raw -echo
stty -F "/dev/$ERR_PORT" raw -echo

# Through pipes: the command must not take a serial port for a person's terminal.
mkfifo /run/out /run/err
cat /run/out >"/dev/$OUT_PORT" &
out=$!
cat /run/err >"/dev/$ERR_PORT" &
err=$!
cd /root
sh /command </dev/null >/run/out 2>/run/err 3>&-
status=$?
# What the command left running may hold the pipes open for ever.
(sleep 2; kill $out $err) 2>/dev/null &
wait $out
wait $err
echo "exit $status" >&3
exec 3>&-
poweroff -f
