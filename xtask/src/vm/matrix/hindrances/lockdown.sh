# A kernel that is locked down, as Secure Boot does it: for integrity, then for confidentiality.
mount -t securityfs securityfs /sys/kernel/security
lock=/sys/kernel/security/lockdown
told "lock for integrity" sh -c "echo integrity >$lock"
told "doctor under integrity" tcptrace doctor --json
told "scene by functions" scene FENTRY
told "scene by tracepoints" scene TIMER
told "tests" env TCPTRACE_LIVE_ONLY='TESTS' live
told "lock for confidentiality" sh -c "echo confidentiality >$lock"
told "doctor under confidentiality" tcptrace doctor --json
told "trace under confidentiality" tcptrace -d 1
told "explain under confidentiality" tcptrace explain 127.0.0.1:80
# Nothing says then how it is locked down.
umount /sys/kernel/security
told "trace without securityfs" tcptrace -d 1
