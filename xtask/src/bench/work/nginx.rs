//! Owns the workload of a real server: nginx, and ab asking it.

use std::{
    fs,
    net::{SocketAddrV4, TcpStream},
    path::Path,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{FIRST_PORT, Load, Ready};
use crate::{
    bench::{
        peers::{self, Peer},
        scratch::Scratch,
        stage::{Side, Stage},
        sys,
        tracer::Refused,
    },
    process,
};

/// How long nginx may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(10);
/// Requests that one ab has under way.
const AT_ONCE: u32 = 4;

/// A server that answers, and who asks it.
pub(in crate::bench) struct Nginx<'a> {
    stage: &'a Stage,
    server: Child,
    ab: Peer,
    folder: Scratch,
}

impl<'a> Nginx<'a> {
    /// Starts it with a worker for each driver, and waits until it listens.
    pub(super) fn start(load: Load, stage: &'a Stage) -> Result<Self> {
        ensure!(
            load.times >= AT_ONCE,
            "ab has {AT_ONCE} requests under way; type --connections {AT_ONCE} or more"
        );
        let (nginx, ab) = match (peers::nginx(), peers::ab()) {
            (Ok(nginx), Ok(ab)) => (nginx, ab),
            (Err(error), _) | (_, Err(error)) => return Err(Refused(format!("{error:#}")).into()),
        };
        let folder = Scratch::folder("nginx")?;
        let address = SocketAddrV4::new(stage.address(), FIRST_PORT);
        let file = folder.path().join("nginx.conf");
        fs::write(&file, configuration(folder.path(), address, load.drivers))?;
        let mut command = nginx.command()?;
        command
            .arg("-p")
            .arg(folder.path())
            .arg("-c")
            .arg(&file)
            .args(["-e", "stderr"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.path().join("errors"))?);
        let server = stage.within(Side::Server, || {
            command.spawn().context("cannot start nginx")
        })?;
        let mut nginx = Self {
            stage,
            server,
            ab,
            folder,
        };
        nginx.wait_until_it_listens(address)?;
        Ok(nginx)
    }

    /// One driver's share.
    pub(super) fn drive(&self, _driver: u16, times: u32, ready: Ready<'_>) -> Result<()> {
        let entered = self.stage.enter(Side::Client);
        ready();
        entered?;
        let mut command = self.ab.command()?;
        let (times, at_once) = (times.to_string(), AT_ONCE.to_string());
        let url = format!("http://{}:{FIRST_PORT}/", self.stage.address());
        let text = process::capture(command.args(["-q", "-n", &times, "-c", &at_once, &url]))?;
        let failed = failed_requests(&text).context("ab does not say how many requests failed")?;
        ensure!(failed == 0, "{failed} requests to nginx failed");
        Ok(())
    }

    fn wait_until_it_listens(&mut self, address: SocketAddrV4) -> Result<()> {
        let begun = Instant::now();
        let answers = || {
            self.stage
                .within(Side::Client, || Ok(TcpStream::connect(address).is_ok()))
        };
        while !answers()? {
            if let Some(status) = self.server.try_wait()? {
                let errors = fs::read_to_string(self.folder.path().join("errors"))?;
                bail!(
                    "nginx ended at once, {status}: {}",
                    errors.lines().next().unwrap_or("it did not say why")
                );
            }
            ensure!(
                begun.elapsed() < START_LIMIT,
                "nginx did not listen within {} s",
                START_LIMIT.as_secs()
            );
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Nginx<'_> {
    fn drop(&mut self) {
        // SIGQUIT: it ends its workers, and waits for them. If that fails, at least it does not stay.
        let ended = sys::signal(self.server.id(), libc::SIGQUIT).is_ok()
            && (0..200).any(|_| {
                thread::sleep(Duration::from_millis(10));
                self.server.try_wait().is_ok_and(|status| status.is_some())
            });
        if !ended {
            let _ = self.server.kill();
        }
        let _ = self.server.wait();
    }
}

/// One short answer to each request, then the connection is closed by the server. What Debian's nginx would
/// write to /var goes into `folder`.
fn configuration(folder: &Path, address: SocketAddrV4, workers: u16) -> String {
    let folder = folder.display();
    format!(
        "daemon off;
user root;
worker_processes {workers};
pid {folder}/pid;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    keepalive_timeout 0;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen {address} backlog=4096;
        location / {{ return 200 \"ok\"; }}
    }}
}}
"
    )
}

/// `Failed requests:        0`
fn failed_requests(text: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix("Failed requests:"))?
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ab_says_of_failures_is_read() {
        let text = "Complete requests:      100\nFailed requests:        3\n   (Connect: 0)\n";
        assert_eq!(failed_requests(text), Some(3));
        assert_eq!(failed_requests("Benchmarking"), None);
    }
}
