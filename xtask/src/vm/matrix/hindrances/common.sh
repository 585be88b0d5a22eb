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
    # One that is refused has ended already: what it said is told below.
    has_started
    meanwhile
    talk
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
