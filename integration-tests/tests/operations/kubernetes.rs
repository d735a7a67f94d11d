//! `examples/kubernetes`: valid for several versions of Kubernetes, and what the kubelet does with it in a
//! rolling update, with processes and with containers.
//!
//! Deliberately absent: a cluster. The controller's part is small: it starts the next pod of a node beside
//! the one that serves, waits until that has been ready for `minReadySeconds`, and ends the other one. The
//! test plays both.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use integration_tests::client::{InFlight, get};
use integration_tests::load::{Load, LoadPlan};
use integration_tests::podman::NEEDS;
use integration_tests::process::needs::{KUBECTL, KUBERNETES_VALIDATE, NAMESPACES, have};
use integration_tests::process::{Exit, binary, free_address};
use integration_tests::readme::repository;
use integration_tests::{Podman, Readme, SOON, Sandbox, Service, Status, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};

const EXAMPLE: &str = "examples/kubernetes";

/// Runs a script beside the manifests; what it printed.
fn script(sandbox: &Sandbox, script: &str) -> String {
    let (mut command, output) = sandbox.command(Path::new("bash"));
    command.args(["-euo", "pipefail", "-c", script]).current_dir(repository().join(EXAMPLE));
    let outcome = sandbox.outcome(command, output);
    assert_eq!(outcome.code(), 0, "{}\n{}", outcome.stdout, outcome.stderr);
    outcome.stdout
}

#[test]
fn it_is_valid_for_several_versions() {
    if !have(&[KUBECTL, KUBERNETES_VALIDATE]) {
        return;
    }
    let sandbox = Sandbox::new();
    script(&sandbox, &Readme::of(EXAMPLE).commands("validate"));
}

/// What the README does with a cluster, to the manifests.
#[test]
fn the_update_of_the_readme_sets_the_image_of_its_container() {
    if !have(&[KUBECTL, KUBERNETES_VALIDATE]) {
        return;
    }
    let sandbox = Sandbox::new();
    let readme = Readme::of(EXAMPLE);
    let set = readme.text().lines().find(|line| line.starts_with("kubectl set image ")).expect("it updates");
    // Without a cluster there is no object to name, and what is in the file is changed: the one that is named.
    let (name, image) = set["kubectl set image ".len()..].split_once(' ').expect("an object and an image");
    let manifests = daemon_set(&sandbox);
    let object = format!("{}/{}", manifests["kind"], manifests["metadata"]["name"]).replace('"', "");
    assert_eq!(object.to_lowercase(), name);
    let update =
        format!("kubectl kustomize . | kubectl set image --local --filename - {image} --output yaml");
    script(&sandbox, &format!("{update} | python3 -m kubernetes_validate --strict -k 1.37 -"));
    let changed = &printed(&sandbox, &update)["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(format!("{}={}", changed["name"], changed["image"]).replace('"', ""), image);
}

/// The manifests as the API server gets them.
fn daemon_set(sandbox: &Sandbox) -> Value {
    printed(sandbox, "kubectl kustomize .")
}

/// The object that a script prints as YAML.
fn printed(sandbox: &Sandbox, yaml: &str) -> Value {
    let to_json = "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin)))";
    let text = script(sandbox, &format!("{yaml} | python3 -c '{to_json}'"));
    serde_json::from_str(&text).expect("it is JSON")
}

/// A pod as the controller makes it of the template: with a name of its own.
struct Pod {
    name: String,
    spec: Value,
}

impl Pod {
    fn container(&self) -> &Value {
        &self.spec["containers"][0]
    }

    fn words(value: &Value) -> Vec<String> {
        let words = value.as_array().expect("a list of words").iter();
        words.map(|word| word.as_str().expect("a word").to_owned()).collect()
    }

    fn probe(&self, name: &str) -> Vec<String> {
        Self::words(&self.container()[name]["exec"]["command"])
    }

    fn pre_stop(&self) -> Vec<String> {
        Self::words(&self.container()["lifecycle"]["preStop"]["exec"]["command"])
    }
}

/// What the kubelet of a node does with a pod.
trait Node {
    fn start(&mut self, pod: &Pod);

    /// Runs a command in it; whether it succeeds.
    fn exec(&self, pod: &Pod, words: &[String]) -> bool;

    /// SIGTERM, and SIGKILL when the grace is over; whether it exits by itself, and with 0.
    fn terminate(&mut self, pod: &Pod, grace: Duration) -> bool;
}

/// Plays controller and kubelet.
struct Rollout<N> {
    node: N,
    template: Value,
    http: SocketAddr,
    control: PathBuf,
}

impl<N: Node> Rollout<N> {
    /// The template is that of the example, but for what may not be fixed in a test: where it listens, its
    /// version, and times.
    fn pod(&self, version: &str, more: &[&str]) -> Pod {
        let mut spec = self.template.clone();
        let container = &mut spec["containers"][0];
        let mut words = Pod::words(&container["args"]);
        for word in words.iter_mut().filter(|word| *word == "0.0.0.0:8080") {
            *word = self.http.to_string();
        }
        words.extend(
            ["--app-version", version, "--probation", "0.5"].iter().chain(more).map(ToString::to_string),
        );
        container["args"] = json!(words);
        Pod { name: format!("axum-server-{version}"), spec }
    }

    fn status(&self) -> Option<Status> {
        Status::ask(&self.control).ok()
    }

    fn is(&self, pod: &Pod, probe: &str) -> bool {
        self.node.exec(pod, &pod.probe(probe))
    }

    fn starts(&mut self, pod: &Pod) {
        self.node.start(pod);
        eventually("it has started", SOON, || self.is(pod, "startupProbe").then_some(()));
    }

    fn becomes_ready(&self, pod: &Pod) {
        eventually("it is ready", SOON, || self.is(pod, "readinessProbe").then_some(()));
        assert!(self.is(pod, "livenessProbe"));
        // `minReadySeconds` is longer than the probation.
        eventually("it has been ready for a while", SOON, || {
            let predecessors = self.status()?.predecessors;
            predecessors.iter().all(|predecessor| !predecessor.probation).then_some(())
        });
    }

    fn ends(&mut self, pod: &Pod) {
        let grace = pod.spec["terminationGracePeriodSeconds"].as_u64().expect("seconds");
        assert!(self.node.exec(pod, &pod.pre_stop()), "preStop");
        assert!(self.node.terminate(pod, Duration::from_secs(grace)), "it exits by itself, with 0");
    }

    /// One that serves, two updates, one that fails, and the way back.
    fn run(mut self) {
        let mut old = self.pod("v1", &[]);
        self.starts(&old);
        self.becomes_ready(&old);
        let load = Load::start(self.http, LoadPlan { sse: 0, ..LoadPlan::default() });
        eventually("every client has an answer", SOON, || load.is_warm().then_some(()));

        for version in ["v2", "v3"] {
            let slow = InFlight::start(self.http, Duration::from_secs(2));
            let new = self.pod(version, &[]);
            self.starts(&new);
            self.becomes_ready(&new);
            assert_eq!(get(self.http, "/version").expect("it answers"), version);
            // The old one does not serve any more, and is there until it is told to end.
            assert!(!self.is(&old, "readinessProbe") && self.is(&old, "livenessProbe"));
            self.ends(&old);
            slow.answer().expect("what the old pod had in flight is answered");
            old = new;
        }

        let bad = self.pod("bad", &["--fail-before-ready", "hang"]);
        self.node.start(&bad);
        eventually("the bad one joins", SOON, || self.status()?.successor.map(drop));
        assert!(!self.is(&bad, "readinessProbe"), "it looks ready because another pod serves");
        assert!(self.is(&old, "readinessProbe"));
        self.node.terminate(&bad, Duration::from_secs(30));
        assert!(self.is(&old, "readinessProbe"));

        load.stop().assert_nothing_failed();
        self.ends(&old);
        assert!(self.status().is_none());
    }
}

// ---- processes
// ----------------------------------------------------------------------------------------------

/// A pod is a process that is number 1 of a namespace.
struct Processes<'a> {
    sandbox: &'a Sandbox,
    running: Vec<(String, Service<'a>)>,
}

impl Processes<'_> {
    /// The environment that the manifest gives it.
    fn environment(&self, pod: &Pod) -> Vec<(String, String)> {
        let variables = pod.container()["env"].as_array().expect("a list").iter();
        let value = |variable: &Value| match variable["value"].as_str() {
            Some(value) => value.replace("/run/shop", &self.sandbox.path().display().to_string()),
            None => {
                assert_eq!(variable["valueFrom"]["fieldRef"]["fieldPath"], "metadata.name");
                pod.name.clone()
            }
        };
        let name = |variable: &Value| variable["name"].as_str().expect("a name").to_owned();
        variables.map(|variable| (name(variable), value(variable))).collect()
    }
}

impl Node for Processes<'_> {
    fn start(&mut self, pod: &Pod) {
        let words = Pod::words(&pod.container()["args"]);
        let (mut command, _) = self.sandbox.command(Path::new("unshare"));
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.arg(binary(&words[0])).args(&words[1..]).envs(self.environment(pod));
        self.running.push((pod.name.clone(), Service::run(self.sandbox, &mut command)));
    }

    fn exec(&self, pod: &Pod, words: &[String]) -> bool {
        let (mut command, output) = self.sandbox.command(&binary(&words[0]));
        command.args(&words[1..]).envs(self.environment(pod));
        self.sandbox.outcome(command, output).code() == 0
    }

    fn terminate(&mut self, pod: &Pod, grace: Duration) -> bool {
        let (_, unshare) = self.running.iter().find(|(name, _)| *name == pod.name).expect("it was started");
        let children = format!("/proc/{0}/task/{0}/children", unshare.pid());
        let children = fs::read_to_string(children).unwrap_or_default();
        let first = children.split_whitespace().next().expect("process 1 is there");
        Service::of(self.sandbox, first.parse().expect("a process id")).signal(Signal::TERM);
        let begun = std::time::Instant::now();
        unshare.wait_exit() == Exit::Status(0) && begun.elapsed() < grace
    }
}

#[test]
fn a_rolling_update_with_processes() {
    if !have(&[KUBECTL, KUBERNETES_VALIDATE, NAMESPACES]) {
        return;
    }
    let sandbox = Sandbox::new();
    let template = daemon_set(&sandbox)["spec"]["template"]["spec"].clone();
    let node = Processes { sandbox: &sandbox, running: Vec::new() };
    let (http, control) = (free_address(), sandbox.control());
    Rollout { node, template, http, control }.run();
}

// ---- containers
// ---------------------------------------------------------------------------------------------

/// A pod is one of podman's, of the same manifest.
struct Containers<'a> {
    sandbox: &'a Sandbox,
    podman: Podman<'a>,
}

impl Containers<'_> {
    fn container(pod: &Pod) -> String {
        format!("{0}-axum-server", pod.name)
    }
}

impl Node for Containers<'_> {
    fn start(&mut self, pod: &Pod) {
        let mut spec = pod.spec.clone();
        spec["volumes"][0]["hostPath"]["path"] = json!(self.sandbox.path().join("control"));
        let container = spec["containers"][0].as_object_mut().expect("it is an object");
        // The test asks, as the kubelet does; podman would leave it to systemd.
        for asked in ["startupProbe", "readinessProbe", "livenessProbe", "lifecycle"] {
            let _asked_by_the_test = container.remove(asked);
        }
        container.insert("imagePullPolicy".to_owned(), json!("Never"));
        let manifest = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": pod.name, "labels": { "app": "axum-server" } },
            "spec": spec,
        });
        let file = self.sandbox.path().join(format!("{}.json", pod.name));
        fs::write(&file, manifest.to_string()).expect("the sandbox is ours");
        self.podman.podman(&["play", "kube", &file.display().to_string()]);
    }

    fn exec(&self, pod: &Pod, words: &[String]) -> bool {
        let container = Self::container(pod);
        let words: Vec<_> =
            ["exec", &container].into_iter().chain(words.iter().map(String::as_str)).collect();
        self.podman.run(&words).code() == 0
    }

    fn terminate(&mut self, pod: &Pod, grace: Duration) -> bool {
        let container = Self::container(pod);
        self.podman.podman(&["stop", "--time", &grace.as_secs().to_string(), &container]);
        let exits_well = self.podman.inspect(&container, "State.ExitCode") == "0";
        self.podman.podman(&["pod", "rm", "--force", &pod.name]);
        exits_well
    }
}

#[test]
fn a_rolling_update_with_podman_play_kube() {
    if !have(&NEEDS) || !have(&[KUBECTL, KUBERNETES_VALIDATE]) {
        return;
    }
    let sandbox = Sandbox::new();
    let template = daemon_set(&sandbox)["spec"]["template"]["spec"].clone();
    let node = Containers { sandbox: &sandbox, podman: Podman::new(&sandbox) };
    let (http, control) = (free_address(), sandbox.path().join("control/control.sock"));
    fs::create_dir(sandbox.path().join("control")).expect("the sandbox is ours");
    let rollout = Rollout { node, template, http, control };
    // The image that the kustomization names is the one that was built.
    assert_eq!(rollout.template["containers"][0]["image"], "localhost/shop:latest");
    rollout.run();
}
