//! A page in headless Chromium that asks all the time.

use integration_tests::SOON;
use integration_tests::process::eventually;
use serde_json::Value;

use super::stage::{Asks, Place};
use crate::browser::Browser;

/// Four requests at a time, each of which is an echo of another length, and one stream of events after the
/// other, in which none may be missing.
const ASKS: &str = r#"
const seen = window.seen = { over: false, running: 0, answered: 0, events: 0, failed: 0, why: '' };
async function again(one) {
  seen.running += 1;
  for (let n = 1; !seen.over; n += 1) {
    try { await one(n); } catch (error) { seen.failed += 1; seen.why += ` ${error}`; seen.over = true; }
  }
  seen.running -= 1;
}
async function echo(n) {
  const body = 'x'.repeat(n * 7919 % 20000);
  const answer = await fetch('/echo', { method: 'POST', body });
  if (await answer.text() !== body) throw new Error('it is another echo');
  seen.answered += 1;
}
async function events() {
  const reader = (await fetch('/events')).body.pipeThrough(new TextDecoderStream()).getReader();
  for (let next = 0, said = '';;) {
    const { done, value } = await reader.read();
    if (done || seen.over) return reader.cancel();
    const lines = (said + value).split('\n');
    said = lines.pop();
    for (const line of lines.filter((line) => line.startsWith('data: '))) {
      if (line !== `data: ${next}`) throw new Error(`${line} instead of ${next}`);
      next += 1;
      seen.events += 1;
    }
  }
}
for (const one of [echo, echo, echo, echo, events]) again(one);
"#;

/// What it has seen; the browser knows the protocol of its first answers.
const SAYS: &str = r#"
`answered=${seen.answered} events=${seen.events} failed=${seen.failed} other_protocols=` +
  `${performance.getEntriesByType('resource').filter((entry) => entry.nextHopProtocol !== 'h2').length}${seen.why}`
"#;

pub(crate) struct Page(Browser);

impl Page {
    pub(crate) fn open(place: &Place<'_>) -> anyhow::Result<Self> {
        let mut browser = Browser::open(place.sandbox, &place.url("/version"))?;
        eventually("the page is loaded", SOON, || {
            let state = browser.evaluate("location.protocol + document.readyState").ok()?;
            (state == "https:complete").then_some(())
        });
        browser.evaluate(ASKS)?;
        eventually("the page is answered", SOON, || {
            let answered = browser.evaluate("seen.over || seen.answered > 0").ok()?;
            (answered == Value::Bool(true)).then_some(())
        });
        Ok(Self(browser))
    }
}

impl Asks for Page {
    /// After a failure it asks no more.
    fn has_ended(&mut self) -> bool {
        self.0.evaluate("seen.over").is_ok_and(|over| over == Value::Bool(true))
    }

    fn end(mut self) -> anyhow::Result<String> {
        self.0.evaluate("seen.over = true")?;
        eventually("the page comes to an end", SOON, || {
            (self.0.evaluate("seen.running").ok()? == 0).then_some(())
        });
        Ok(self.0.evaluate(SAYS)?.as_str().unwrap_or_default().to_owned())
    }
}
