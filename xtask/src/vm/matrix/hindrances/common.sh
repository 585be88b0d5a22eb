# What the scripts of hindrances share. Each thing that is tried is a part of the output, with its exit status.
told() {
    echo "== $1"
    shift
    "$@" 2>&1
    echo "== status $?"
}

# A trace with these flags of a connection that closes and of a bind() that fails, with what `meanwhile` does
# once it has begun.
scene() {
    rm -f shown said
    tcptrace --json "$@" >shown 2>said &
    tracer=$!
    # The first line says that all programs are attached.
    tries=0
    until [ -s shown ]; do
        tries=$((tries + 1))
        if [ $tries -gt 600 ] || ! kill -0 $tracer; then
            break
        fi
        sleep 0.1
    done
    meanwhile
    nc -l -p 8000 </dev/null >/dev/null &
    server=$!
    sleep 1
    nc -l -p 8000 </dev/null >/dev/null 2>refused
    echo hello | nc -w 1 127.0.0.1 8000
    wait $server
    sleep 1
    afterwards
    kill -INT $tracer
    wait $tracer
    status=$?
    cat shown said
    return $status
}
meanwhile() { :; }
afterwards() { :; }

cd /tmp
