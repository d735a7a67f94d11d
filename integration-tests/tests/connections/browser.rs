//! Headless Chromium with one page, spoken to in the DevTools protocol.

use std::env;
use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context as _, ensure};
use futures_util::{SinkExt as _, StreamExt as _};
use integration_tests::process::eventually;
use integration_tests::{SOON, Sandbox};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::chat::{connect, runtime};

/// A browser. Its page believes any certificate.
pub(crate) struct Browser {
    /// It ends when the namespace is empty.
    process: Child,
    runtime: Runtime,
    socket: WebSocketStream<TcpStream>,
    /// The session with the page.
    session: Value,
    calls: u64,
}

impl Browser {
    pub(crate) fn open(sandbox: &Sandbox, url: &str) -> anyhow::Result<Self> {
        let profile = sandbox.path().join("chromium");
        // With it end its helpers, which go on writing into its profile for a moment: they are in one
        // namespace.
        let (mut command, _) = sandbox.command(Path::new("unshare"));
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]).arg("chromium");
        command.arg(format!("--user-data-dir={}", profile.display())).args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            "--ignore-certificate-errors",
            "--window-size=900,640",
            "--remote-debugging-port=0",
            url,
        ]);
        let process = command.spawn().context("chromium does not start")?;
        let active = profile.join("DevToolsActivePort");
        let (port, path): (u16, String) = eventually("chromium says its port", 3 * SOON, || {
            let active = fs::read_to_string(&active).ok()?;
            let (port, path) = active.split_once('\n')?;
            Some((port.parse().ok()?, path.trim().to_owned()))
        });
        let runtime = runtime();
        let socket = runtime.block_on(connect(SocketAddr::from(([127, 0, 0, 1], port)), &path))?;
        let mut browser = Self { process, runtime, socket, session: Value::Null, calls: 0 };
        let target = eventually("chromium has the page", SOON, || {
            let targets = browser.call("Target.getTargets", &json!({})).ok()?;
            let page = targets["targetInfos"].as_array()?.iter().find(|target| target["url"] == url)?;
            Some(page["targetId"].clone())
        });
        let attached =
            browser.call("Target.attachToTarget", &json!({ "targetId": target, "flatten": true }))?;
        browser.session = attached["sessionId"].clone();
        Ok(browser)
    }

    fn call(&mut self, method: &str, params: &Value) -> anyhow::Result<Value> {
        let Self { runtime, socket, session, calls, .. } = self;
        *calls += 1;
        let mut call = json!({ "id": calls, "method": method, "params": params });
        if !session.is_null() {
            call["sessionId"] = session.clone();
        }
        runtime.block_on(async {
            socket.send(Message::text(call.to_string())).await?;
            loop {
                let message = timeout(SOON, socket.next()).await?.context("chromium has left")??;
                let answer: Value = serde_json::from_str(message.to_text()?)?;
                if answer["id"] == json!(calls) {
                    ensure!(answer["error"].is_null(), "{method}: {answer}");
                    return Ok(answer["result"].clone());
                }
            }
        })
    }

    pub(crate) fn evaluate(&mut self, expression: &str) -> anyhow::Result<Value> {
        let result =
            self.call("Runtime.evaluate", &json!({ "expression": expression, "returnByValue": true }))?;
        ensure!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        Ok(result["result"]["value"].clone())
    }

    /// What stands in the element with this id.
    pub(crate) fn text(&mut self, id: &str) -> String {
        let text = self.evaluate(&format!("document.getElementById('{id}').innerText"));
        text.ok().and_then(|text| text.as_str().map(ToOwned::to_owned)).unwrap_or_default()
    }

    /// For people: `CHAT_SCREENSHOT=<path>` has it written there.
    pub(crate) fn screenshot(&mut self) -> anyhow::Result<()> {
        let Some(path) = env::var_os("CHAT_SCREENSHOT") else { return Ok(()) };
        let picture = self.call("Page.captureScreenshot", &json!({ "format": "png" }))?;
        let mut decode = Command::new("base64")
            .arg("--decode")
            .stdin(Stdio::piped())
            .stdout(fs::File::create(path)?)
            .spawn()?;
        let data = picture["data"].as_str().context("no picture")?;
        decode.stdin.take().context("no pipe")?.write_all(data.as_bytes())?;
        ensure!(decode.wait()?.success(), "base64 failed");
        Ok(())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.session = Value::Null;
        // Otherwise the sandbox ends it.
        if self.call("Browser.close", &json!({})).is_ok() && !thread::panicking() {
            eventually("chromium ends", SOON, || self.process.try_wait().ok()?);
        }
    }
}
