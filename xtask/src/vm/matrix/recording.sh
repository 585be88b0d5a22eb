# A trace, shown and recorded at once, of what the shell's own programs do.
cd /tmp
tcptrace --json --record it.rec FLAGS >shown 2>said &
tracer=$!
# The first line says that all programs are attached.
tries=0
until [ -s shown ]; do
    tries=$((tries + 1))
    if [ $tries -gt 600 ] || ! kill -0 $tracer; then
        cat said >&2
        echo "the trace did not start" >&2
        exit 1
    fi
    sleep 0.2
done
# The client closes first: it gets TIME_WAIT. Meanwhile a second listener is refused.
nc -l -p 8000 </dev/null >/dev/null &
server=$!
sleep 1
nc -l -p 8000 </dev/null >/dev/null 2>refused
echo hello | nc -w 1 127.0.0.1 8000
wait $server
# Until TIME_WAIT has ended by itself: free with the fast clock.
sleep 62
kill -INT $tracer
wait $tracer || { echo "the trace ended with $?: $(cat said)" >&2; exit 1; }
tcptrace replay it.rec --json >replayed || { echo "the guest's replay ended with $?" >&2; exit 1; }
cmp shown replayed >&2 || { echo "the guest's replay shows something else than the trace" >&2; exit 1; }
echo "== replay"
cat replayed
echo "== recording"
base64 it.rec
