# The tracing of the kernel's functions, switched off before a trace begins and under one.
switch=/proc/sys/kernel/ftrace_enabled
told "switch off" sh -c "echo 0 >$switch"
told doctor tcptrace doctor --json
told "backend fentry" tcptrace --backend fentry --calls off -d 1
told "calls fentry" tcptrace --backend timer --calls fentry -d 1
told scene scene
echo 1 >$switch
meanwhile() { told "switched off" sh -c "echo 0 >$switch" >switched; sleep 1; }
afterwards() { echo 1 >$switch; sleep 1; }
told "scene under which it is switched off" scene
cat switched
