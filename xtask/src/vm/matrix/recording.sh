# A trace, shown and recorded at once, of what the shell's own programs do.
tcptrace --json --record it.rec FLAGS >shown 2>said &
tracer=$!
has_started || {
    cat said >&2
    echo "the trace did not start" >&2
    exit 1
}
# The client gets TIME_WAIT.
talk
# Until TIME_WAIT has ended by itself, which the timer wheel puts off by up to 2 s (kernel/time/timer.c
# `calc_index`, v6.18): free with the fast clock.
sleep 66
kill -INT $tracer
wait $tracer || { echo "the trace ended with $?: $(cat said)" >&2; exit 1; }
tcptrace replay it.rec --json >replayed || { echo "the guest's replay ended with $?" >&2; exit 1; }
cmp shown replayed >&2 || { echo "the guest's replay shows something else than the trace" >&2; exit 1; }
echo "== replay"
cat replayed
echo "== recording"
base64 it.rec
