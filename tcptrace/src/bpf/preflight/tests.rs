//! Each thing a machine may lack, one at a time.

use super::*;

const BUFFER: u32 = 8 << 20;

fn good() -> Machine {
    Machine {
        version: Ok(KernelVersion::parse("6.12.1").unwrap()),
        capabilities: Capabilities::all(),
        initial_user_namespace: true,
        lockdown: Some("[none] integrity confidentiality\n".to_owned()),
        has_btf: true,
        types: None,
        tracefs: Ok(Reach::Mounted("/sys/kernel/tracing")),
        ftrace_off: false,
        memlock: None,
    }
}

/// The sentence that `machine` fails with.
fn sentence(machine: &Machine) -> String {
    demand(&machine.checks(BUFFER)).unwrap_err().to_string()
}

#[test]
fn a_good_machine_passes_every_check() {
    let checks = good().checks(BUFFER);
    assert!(
        checks.iter().all(|check| check.status == Status::Ok),
        "{checks:?}"
    );
    assert!(demand(&checks).is_ok());
}

#[test]
fn an_old_kernel_is_named() {
    let mut machine = good();
    machine.version = Ok(KernelVersion::parse("5.4.0-150-generic").unwrap());
    let said = sentence(&machine);
    assert!(
        said.contains("5.4.0-150-generic") && said.contains("5.8"),
        "{said}"
    );
}

#[test]
fn missing_capabilities_are_named() {
    let mut machine = good();
    machine.capabilities = Capabilities::none();
    let said = sentence(&machine);
    assert!(
        said.contains("CAP_BPF and CAP_PERFMON") && said.contains("sudo"),
        "{said}"
    );
}

#[test]
fn a_user_namespace_is_named() {
    let mut machine = good();
    machine.initial_user_namespace = false;
    assert!(sentence(&machine).contains("user namespace"));
}

#[test]
fn only_lockdown_for_confidentiality_forbids_tracing() {
    let mut machine = good();
    machine.lockdown = Some("none [integrity] confidentiality\n".to_owned());
    assert!(demand(&machine.checks(BUFFER)).is_ok());
    machine.lockdown = Some("none integrity [confidentiality]\n".to_owned());
    assert!(sentence(&machine).contains("lockdown=confidentiality"));
}

#[test]
fn a_kernel_without_btf_is_refused() {
    let mut machine = good();
    machine.has_btf = false;
    assert!(sentence(&machine).contains("CONFIG_DEBUG_INFO_BTF"));
}

#[test]
fn the_memory_limit_counts_only_before_5_11() {
    let mut machine = good();
    machine.memlock = Some(65_536);
    assert!(demand(&machine.checks(BUFFER)).is_ok());
    machine.version = Ok(KernelVersion::parse("5.10.0").unwrap());
    let said = sentence(&machine);
    assert!(
        said.contains("65536") && said.contains("ulimit -l"),
        "{said}"
    );
    machine.memlock = None;
    assert!(demand(&machine.checks(BUFFER)).is_ok());
}

#[test]
fn no_tracefs_degrades_only() {
    let mut machine = good();
    machine.tracefs = Err("it is not mounted; mount it with: mount -t tracefs".to_owned());
    let checks = machine.checks(BUFFER);
    assert!(demand(&checks).is_ok());
    let tracefs = checks.iter().find(|check| check.name == "tracefs").unwrap();
    assert_eq!(tracefs.status, Status::Degraded);
    let said = tracefs.sentence();
    assert!(said.contains("not mounted: bind()"), "{said}");
    assert!(
        said.ends_with("; mount it with: mount -t tracefs"),
        "{said}"
    );
}

#[test]
fn a_small_limit_of_memory_is_not_helped_by_a_small_buffer() {
    let mut machine = good();
    machine.version = Ok(KernelVersion::parse("5.10.0").unwrap());
    machine.memlock = Some(65_536);
    let said = sentence(&machine);
    assert!(
        said.contains("CAP_SYS_RESOURCE") && !said.contains("--buffer-size"),
        "{said}"
    );
    machine.memlock = Some(20 << 20);
    assert!(sentence(&machine).contains("--buffer-size 1M"));
}

#[test]
fn functions_that_are_not_traced_degrade_only() {
    let mut machine = good();
    machine.ftrace_off = true;
    let checks = machine.checks(BUFFER);
    assert!(demand(&checks).is_ok());
    let ftrace = checks.iter().find(|check| check.name == "ftrace").unwrap();
    assert_eq!(ftrace.status, Status::Degraded);
    assert!(ftrace.sentence().contains("sysctl kernel.ftrace_enabled=1"));
}

#[test]
fn each_capability_that_is_missing_beside_the_events_is_named() {
    let mut machine = good();
    machine.capabilities = Capabilities::for_tracing_only();
    let checks = machine.checks(BUFFER);
    assert!(demand(&checks).is_ok());
    let more = checks
        .iter()
        .find(|check| check.name == "more rights")
        .unwrap();
    assert_eq!(more.status, Status::Degraded);
    for name in [
        "CAP_SYSLOG",
        "CAP_SYS_PTRACE",
        "CAP_DAC_READ_SEARCH",
        "CAP_SYS_ADMIN",
    ] {
        assert!(more.found.contains(name), "{more:?}");
    }
}

#[test]
fn types_from_a_file_stand_in_for_those_of_the_kernel() {
    let mut machine = good();
    machine.has_btf = false;
    assert!(sentence(&machine).contains("--btf FILE"));
    let machine = machine.with_types(Some(Path::new("/boot/kernel.btf")));
    let checks = machine.checks(BUFFER);
    assert!(demand(&checks).is_ok());
    assert!(
        checks
            .iter()
            .any(|check| check.name == "BTF" && check.found == "/boot/kernel.btf (--btf)")
    );
}
