# What scripts share that trace in a guest: waiting for the trace, and something to see.

# Waits until the trace $tracer, whose output goes to `shown`, has told that all programs are attached. Not if it
# ends first, nor after a minute.
has_started() {
    tries=0
    until [ -s shown ]; do
        tries=$((tries + 1))
        if [ $tries -gt 600 ] || ! kill -0 $tracer; then
            return 1
        fi
        sleep 0.1
    done
}

# A connection that its client closes first, to a server beside which a second one is refused.
talk() {
    nc -l -p 8000 </dev/null >/dev/null &
    server=$!
    sleep 1
    nc -l -p 8000 </dev/null >/dev/null 2>refused
    echo hello | nc -w 1 127.0.0.1 8000
    wait $server
}

cd /tmp
