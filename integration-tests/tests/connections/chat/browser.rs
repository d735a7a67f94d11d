//! A person in the chat room: a page in headless Chromium, which is never reconnected.
//!
//! Deliberately absent: other members, see [`super`].

use integration_tests::Sandbox;
use integration_tests::process::needs::{self, have};
use integration_tests::process::{Exit, eventually};
use serde_json::json;

use super::{SOON, start};
use crate::browser::Browser;

fn say(browser: &mut Browser, text: &str) -> anyhow::Result<()> {
    let say = format!(
        "document.getElementById('text').value = {}; document.querySelector('button').click()",
        json!(text)
    );
    browser.evaluate(&say).map(drop)
}

#[test]
fn a_browser_stays_connected() -> anyhow::Result<()> {
    if !have(&[needs::CHROMIUM, needs::NAMESPACES]) {
        return Ok(());
    }
    let sandbox = Sandbox::new();
    let mut serving = start(&sandbox, "v1");
    let address = serving.wait_serving().http;
    let mut browser = Browser::open(&sandbox, &format!("http://{address}/?name=Ada"))?;
    let mut said = Vec::new();
    for handoff in 1..=4 {
        let version = format!("v{handoff}");
        if handoff > 1 {
            let successor = start(&sandbox, &version);
            successor.wait_serving();
            assert_eq!(serving.wait_drained().forced, 0);
            assert_eq!(serving.try_exit(), Some(Exit::Status(0)));
            serving = successor;
        }
        let pid = serving.pid().to_string();
        eventually("the page shows who serves", SOON, || {
            (browser.text("version") == version && browser.text("pid") == pid).then_some(())
        });
        said.push(format!("hello, {version}"));
        say(&mut browser, &said[said.len() - 1])?;
        eventually("the page shows what was said", SOON, || {
            said.iter().all(|said| browser.text("log").matches(said).count() == 1).then_some(())
        });
        assert_eq!(browser.text("reconnects"), "0");
    }
    let wrong = browser.evaluate("document.querySelectorAll('.bad').length")?;
    assert_eq!(wrong, json!(0), "{}", browser.text("log"));
    browser.screenshot()
}
