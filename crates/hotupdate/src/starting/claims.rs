//! Which socket a listener gets: one that is offered, else one that is bound; and what is said of each that
//! is not as before.

use std::io;
use std::net::SocketAddr;

use hotupdate_proto::ListenerKind;
use hotupdate_proto::inventory::MAX_NAME;
use hotupdate_proto::operator::Warning;
use tokio::net::{ToSocketAddrs, lookup_host};

use super::Starting;
use crate::address::Address;
use crate::error::{Doing, Error, ErrorKind, Result};
use crate::listeners::gate::{Claim, Gate, Gated};
use crate::listeners::inherited::{Offered, Origin};
use crate::platform::OwnedFd;

impl Starting {
    pub(super) async fn resolve(&self, name: &str, address: impl ToSocketAddrs) -> Result<Vec<Address>> {
        let addresses =
            lookup_host(address).await.doing(|| format!("resolving the address of the listener {name:?}"))?;
        Ok(addresses.map(Address::Ip).collect())
    }

    pub(super) fn claim<T: Gated>(
        &mut self,
        name: &str,
        kind: ListenerKind,
        wanted: &[Address],
        make: impl Fn(&Address) -> io::Result<OwnedFd>,
    ) -> Result<Claim<T>> {
        self.check_name(name)?;
        let Offered { address, fd, origin, .. } = match self.take(name, kind, wanted) {
            Some(offered) => offered,
            None => self.bind(name, kind, wanted, make)?,
        };
        tracing::info!(parent: &self.span, name, %kind, %address, %origin, "listener");
        let gate = Gate::parked(name, kind, address, fd);
        self.resources.gates.push((gate.clone(), origin));
        self.note(name, origin);
        Ok(Claim::new(gate, self.resources.dropped.clone()))
    }

    /// By name and address; else, for a listener that was renamed, by address: binding it again would fail.
    fn take(&mut self, name: &str, kind: ListenerKind, wanted: &[Address]) -> Option<Offered> {
        let fits = |offered: &Offered| {
            offered.kind == kind && (offered.origin == Origin::Systemd || matches(&offered.address, wanted))
        };
        let by_name = self.offered.iter().position(|o| o.name == name && fits(o));
        // Exactly this address: port 0 means any port, and not that of another listener.
        let by_address = || self.offered.iter().position(|o| o.kind == kind && wanted.contains(&o.address));
        let position = by_name.or_else(by_address)?;
        let offered = self.offered.swap_remove(position);
        if offered.name != name {
            let (before, address) = (&offered.name, &offered.address);
            tracing::warn!(parent: &self.span, name, before, %address, "a listener has a new name");
            self.resources.stale.push(offered.name.clone());
        }
        Some(offered)
    }

    fn bind(
        &mut self,
        name: &str,
        kind: ListenerKind,
        wanted: &[Address],
        make: impl Fn(&Address) -> io::Result<OwnedFd>,
    ) -> Result<Offered> {
        if let Some(before) = self.offered.iter().find(|o| o.name == name) {
            let now = wanted.first().map(ToString::to_string).unwrap_or_default();
            let before = &before.address;
            tracing::warn!(parent: &self.span, name, %before, now, "a listener has another address");
            let text = format!(
                "the listener {name:?} is bound to {now}, and was bound to {before}: clients of the old address \
                 are refused when the version before this one has let go"
            );
            self.resources.warnings.push(Warning::new("moved_listener", text));
        } else if self.incumbent.is_some() {
            tracing::warn!(
                parent: &self.span, name, %kind, "the incumbent has no such listener; it is bound afresh"
            );
        }
        let mut error = io::Error::new(io::ErrorKind::AddrNotAvailable, "the address resolves to nothing");
        for address in wanted {
            match make(address).and_then(|fd| Offered::examine(name, fd, Origin::Bound)) {
                Ok(bound) => return Ok(bound),
                Err(failed) => error = failed,
            }
        }
        let addresses: Vec<_> = wanted.iter().map(ToString::to_string).collect();
        let doing = format!("binding the {kind} listener {name:?} to {}", addresses.join(" or "));
        match self.why_in_use(&error, kind, wanted) {
            Some(why) => Err(Error::new(ErrorKind::Local, doing, why).while_served_by(self.serves_on())),
            None => Err(error).doing(|| doing),
        }
    }

    /// What keeps an address that is in use, as far as this process knows, and what to do about it.
    fn why_in_use(&self, error: &io::Error, kind: ListenerKind, wanted: &[Address]) -> Option<String> {
        if error.kind() != io::ErrorKind::AddrInUse {
            return None;
        }
        let conflicts = |address: &Address| wanted.iter().any(|wanted| wanted.conflicts_with(address));
        let offered = self.offered.iter().filter(|offered| offered.kind == kind);
        let offered = offered.map(|offered| (offered.name.as_str(), &offered.address));
        let claimed = self.resources.gates.iter().filter(|(gate, _)| gate.kind() == kind);
        let claimed = claimed.map(|(gate, _)| (&**gate.name(), gate.address()));
        let mut known = offered.chain(claimed);
        if let Some((name, address)) = known.find(|(_, address)| conflicts(address)) {
            return Some(match &self.incumbent {
                Some(incumbent) => format!(
                    "{incumbent}, which this version is to replace, listens on {address} (its listener {name:?}), \
                     and the kernel allows one of the two at a time: keep that address, take another port, or \
                     end the old version first (hotctl stop --wait)"
                ),
                None => format!("the listener {name:?} of this process is bound to {address}"),
            });
        }
        // An address that the version before this one was to leave, and that this one returns to.
        let former = self.in_probation.as_ref().map(|former| {
            format!(
                "unless another program has it, {former} still does, which can take over again for a moment: \
                 return to that version (hotctl rollback), or repeat this when `hotctl status` shows no version \
                 that can take over again"
            )
        });
        self.misdirected.clone().or(former).map(|why| format!("{error}; {why}"))
    }

    pub(super) fn check_name(&self, name: &str) -> Result<()> {
        let doing = || format!("the listener {name:?}");
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(Error::misuse(doing(), format!("a name has 1 to {MAX_NAME} bytes")));
        }
        if self.ready.adopted.iter().chain(&self.ready.bound).any(|used| used == name) {
            return Err(Error::misuse(doing(), "the name is taken: names are the keys of listeners"));
        }
        Ok(())
    }

    pub(super) fn note(&mut self, name: &str, origin: Origin) {
        let names = if origin == Origin::Bound { &mut self.ready.bound } else { &mut self.ready.adopted };
        names.push(name.to_owned());
    }
}

/// Whether a listener at `address` is one at an address that is `wanted`.
fn matches(address: &Address, wanted: &[Address]) -> bool {
    // `[::ffff:127.0.0.1]` has the clients of 127.0.0.1, and no more.
    let is_same = |ours: SocketAddr, theirs: SocketAddr| {
        let same_ip = ours.ip().to_canonical() == theirs.ip().to_canonical();
        ours == theirs
            || (same_ip
                && (theirs.port() == 0
                    || (theirs.port() == ours.port() && ours.is_ipv4() != theirs.is_ipv4())))
    };
    wanted.iter().any(|wanted| match (address, wanted) {
        (Address::Ip(ours), Address::Ip(theirs)) => is_same(*ours, *theirs),
        (ours, theirs) => ours == theirs,
    })
}
