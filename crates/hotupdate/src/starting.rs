//! Before ready: claim listeners by name, import state, warm up.
//!
//! Deliberately absent: accepting. `ready` consumes this value, so that "bind before ready" is checked by the
//! compiler.

mod claims;

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use hotupdate_proto::inventory::MAX_NAME;
use hotupdate_proto::message::{MAX_DESCRIPTORS, Ready, Release};
use hotupdate_proto::operator::Warning;
use hotupdate_proto::{ConnectionKind, Generation, ListenerItem, ListenerKind, Process, Timing};
use serde::de::DeserializeOwned;
use tokio::net::ToSocketAddrs;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::Span;

use crate::address::Address;
use crate::application::FromApplication;
use crate::connections::Connections;
use crate::connections::{Connection, Relay};
use crate::error::{Doing, Error, ErrorKind, Result};
use crate::listeners::bind;
use crate::listeners::datagram::{UdpSocket, UnixDatagramSocket};
use crate::listeners::inherited::{Offered, Origin};
use crate::listeners::socket::ListeningSocket;
use crate::listeners::stream::{Acceptor, Listener};
use crate::migration::{Handler, Resume};
use crate::platform::OwnedFd;
use crate::resources::Resources;
use crate::serving::Serving;
use crate::state::{Arrived, Export, Found, Slot, State, StoredState};
use crate::tasks::Hook;

/// A process that does not serve yet. [`Starting::ready`] makes a [`Serving`] of it; dropping it gives up,
/// and the incumbent, if there is one, serves on.
#[derive(Debug)]
pub struct Starting {
    pub(crate) application: mpsc::UnboundedSender<FromApplication>,
    pub(crate) generation: Generation,
    /// The handoff that brought the inventory.
    pub(crate) span: Span,
    /// The process to succeed, if there is one, or was.
    pub(crate) incumbent: Option<Process>,
    pub(crate) release: Release,
    /// A process before that one, which can take over again and so has its listeners still.
    pub(crate) in_probation: Option<Process>,
    /// It may leave every listener of the incumbent unclaimed.
    pub(crate) abandon_listeners: bool,
    pub(crate) offered: Vec<Offered>,
    pub(crate) state: HashMap<String, Arrived>,
    /// What an earlier process stored, until the application asks for it.
    pub(crate) stored: HashMap<String, Found>,
    pub(crate) connections: Connections,
    pub(crate) timing: Timing,
    pub(crate) resources: Resources,
    /// Sockets were passed to another process instead of this one.
    pub(crate) misdirected: Option<String>,
    pub(crate) ready: Ready,
    pub(crate) failed: Option<oneshot::Receiver<Error>>,
    /// Told when this process serves; gone when it never will.
    pub(crate) serving: watch::Sender<Option<Serving>>,
}

impl Starting {
    /// The number of this process in the succession.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Whether there was a process to succeed; otherwise this is a first start.
    #[must_use]
    pub fn is_successor(&self) -> bool {
        self.incumbent.is_some()
    }

    /// The deadlines of this process.
    #[must_use]
    pub fn timing(&self) -> &Timing {
        &self.timing
    }

    /// A TCP listener: inherited if one of this name and address is offered, else from systemd, else bound.
    ///
    /// Port 0 accepts whatever port the incumbent has.
    ///
    /// # Errors
    /// [`ErrorKind::ApiMisuse`] for a name that was used before, is empty, or has more than 255 bytes;
    /// [`ErrorKind::Local`] if the address cannot be resolved or bound.
    pub async fn tcp(&mut self, name: &str, address: impl ToSocketAddrs) -> Result<Listener> {
        let claimed = match self.resolve(name, address).await {
            Ok(wanted) => self.claim::<Acceptor>(name, ListenerKind::Tcp, &wanted, bind::tcp),
            Err(error) => Err(error),
        };
        Ok(Listener::new(self.or_trouble(claimed).await?, self.connections.clone()))
    }

    /// A Unix stream listener: inherited if one of this name and path is offered, else from systemd, else
    /// bound. What is left at the path of a process that is gone is replaced.
    ///
    /// # Errors
    /// As [`Starting::tcp`].
    pub async fn unix(&mut self, name: &str, path: impl AsRef<Path>) -> Result<Listener> {
        let wanted = [Address::Unix(Some(path.as_ref().to_owned()))];
        let claimed = self.claim::<Acceptor>(name, ListenerKind::Unix, &wanted, bind::unix);
        Ok(Listener::new(self.or_trouble(claimed).await?, self.connections.clone()))
    }

    /// A TCP listener that another program accepts from, which this process gives a duplicate to: as
    /// [`Starting::tcp`], but this process does not even watch it.
    ///
    /// # Errors
    /// As [`Starting::tcp`].
    pub async fn tcp_socket(&mut self, name: &str, address: impl ToSocketAddrs) -> Result<ListeningSocket> {
        let claimed = match self.resolve(name, address).await {
            Ok(wanted) => self.claim(name, ListenerKind::Tcp, &wanted, bind::tcp),
            Err(error) => Err(error),
        };
        Ok(ListeningSocket::new(self.or_trouble(claimed).await?))
    }

    /// A Unix stream listener that another program accepts from: as [`Starting::unix`], but this process does
    /// not even watch it.
    ///
    /// # Errors
    /// As [`Starting::tcp`].
    pub async fn unix_socket(&mut self, name: &str, path: impl AsRef<Path>) -> Result<ListeningSocket> {
        let wanted = [Address::Unix(Some(path.as_ref().to_owned()))];
        let claimed = self.claim(name, ListenerKind::Unix, &wanted, bind::unix);
        Ok(ListeningSocket::new(self.or_trouble(claimed).await?))
    }

    /// A UDP socket: inherited if one of this name and address is offered, else from systemd, else bound.
    ///
    /// # Errors
    /// As [`Starting::tcp`].
    pub async fn udp(&mut self, name: &str, address: impl ToSocketAddrs) -> Result<UdpSocket> {
        let claimed = match self.resolve(name, address).await {
            Ok(wanted) => self.claim(name, ListenerKind::Udp, &wanted, bind::udp),
            Err(error) => Err(error),
        };
        Ok(UdpSocket::new(self.or_trouble(claimed).await?))
    }

    /// A Unix datagram socket: inherited if one of this name and path is offered, else from systemd, else
    /// bound.
    ///
    /// # Errors
    /// As [`Starting::tcp`].
    pub async fn unix_datagram(&mut self, name: &str, path: impl AsRef<Path>) -> Result<UnixDatagramSocket> {
        let wanted = [Address::Unix(Some(path.as_ref().to_owned()))];
        let claimed = self.claim(name, ListenerKind::UnixDatagram, &wanted, bind::unix_datagram);
        Ok(UnixDatagramSocket::new(self.or_trouble(claimed).await?))
    }

    /// Any other descriptor: inherited if one of this name is offered, else what `make` returns. Nothing
    /// about it is checked, and both processes have it from here on: when to use it is up to the application.
    ///
    /// # Errors
    /// As [`Starting::tcp`], and whatever `make` returns.
    pub fn descriptor(&mut self, name: &str, make: impl FnOnce() -> io::Result<OwnedFd>) -> Result<OwnedFd> {
        self.check_name(name)?;
        let doing = || format!("the descriptor {name:?}");
        let position = self.offered.iter().position(|o| o.name == name && o.kind == ListenerKind::Other);
        let (fd, origin) = match position {
            Some(position) => (self.offered.swap_remove(position).fd, Origin::Inherited),
            None => (make().doing(doing)?, Origin::Bound),
        };
        let ours = fd.try_clone().doing(doing)?;
        let item = ListenerItem {
            name: name.to_owned(),
            kind: ListenerKind::Other,
            address: String::new(),
            cookie: 0,
        };
        self.resources.descriptors.push((item, fd, origin));
        self.note(name, origin);
        Ok(ours)
    }

    /// State of this name as the incumbent has it now, to warm up with. The final word comes with
    /// [`Serving::import`](crate::Serving::import).
    ///
    /// It is read by the first call, which takes one to two milliseconds for each MiB, and kept until
    /// [`Starting::ready`].
    #[must_use]
    pub fn import(&self, name: &str) -> Option<&State> {
        self.state.get(name)?.get()
    }

    /// Passes state to the next version. `export` is called for the inventory and again when the accept loops
    /// have stopped, in the second case while no process accepts: it has to be quick, and what it returns
    /// small.
    ///
    /// What it returns is copied into a memfd, and in new memory it is the page faults that cost. On a
    /// virtual machine with two cores, no process accepted for so long, half of it in an `export` that did
    /// nothing but clone its bytes:
    ///
    /// | state | clients waited |
    /// |---|---|
    /// | 1 MiB | 2 ms |
    /// | 10 MiB | 20 ms |
    /// | 100 MiB | 0.16 s |
    /// | 500 MiB | 0.8 s |
    /// | 1 GiB, which is the limit | 1.7 s; 3.2 s once, when memory was slow |
    ///
    /// So some MiB are fine, and what is larger belongs into a file or a database that both versions use. If
    /// the final word does not come within the deadline `stop` (3 s by default), the handoff fails and this
    /// process serves on; the successor and operators are told so, and which deadline it was. For the
    /// inventory that deadline is `reply` (5 s).
    ///
    /// # Errors
    /// [`ErrorKind::ApiMisuse`] for a name that was exported before, is empty, or has more than 255 bytes,
    /// for a schema of more than 255 bytes, and for more than 250 states. A state of more than 1 GiB is found
    /// when it is exported: the successor is turned away and told why, and this process serves on.
    pub fn export(
        &mut self,
        name: &str,
        schema: &str,
        export: impl Fn() -> Vec<u8> + Send + Sync + 'static,
    ) -> Result<()> {
        if self.resources.exports.iter().any(|e| e.name == name) || name.is_empty() || name.len() > MAX_NAME {
            return Err(Error::misuse(
                format!("exporting the state {name:?}"),
                "the name is taken, empty, or too long",
            ));
        }
        if schema.len() > MAX_NAME {
            return Err(Error::misuse(
                format!("exporting the state {name:?}"),
                format!("its schema has more than {MAX_NAME} bytes"),
            ));
        }
        // The final word of all of them rides on one message.
        if self.resources.exports.len() == MAX_DESCRIPTORS {
            return Err(Error::misuse(
                format!("exporting the state {name:?}"),
                format!("a process has at most {MAX_DESCRIPTORS} states"),
            ));
        }
        let (name, schema) = (name.to_owned(), schema.to_owned());
        self.resources.exports.push(Export { name, schema, export: Box::new(export) });
        Ok(())
    }

    /// State that outlives a crash, where systemd has a store for it
    /// ([`Builder::descriptor_store`](crate::Builder::descriptor_store)): what the application
    /// [sets](StoredState::set) lies in a sealed memfd beside the listeners there, and the process that
    /// systemd starts after a crash, or at a restart of the unit, [gets](StoredState::get) it. It does not
    /// travel in a handoff: the same state has to be [exported](Starting::export), too. Without such a store
    /// nothing happens.
    ///
    /// Each state takes one place of `FileDescriptorStoreMax=`. In the store, the state `keys` is called
    /// `hotupdate-state/keys`. When it is set again, the old one is removed first: in a crash between the two
    /// nothing is found. `hotctl stop` removes it, SIGTERM does not, and neither does a later version that
    /// does not ask for it any more, before it is started by systemd itself.
    ///
    /// **Who can read it**: root, and systemd, which is the manager of the user for a unit of a user; and
    /// every process that systemd starts for this unit by `ExecStart=` is given it. The memory may be
    /// swapped out, as that of a process may. After the end of the last process it stays there, as long as
    /// the unit is not stopped.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), hotupdate::Error> {
    /// let mut hot = hotupdate::join("/run/hello/control.sock").await?;
    /// let stored = hot.stored_state("last-import")?;
    /// let last = stored.get().unwrap_or(b"none").to_vec(); // found after a crash
    /// stored.set(b"2026-11-28")?; // for the next one
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::ApiMisuse`] for a name that was asked for before, is empty, or has more than 255 bytes.
    pub fn stored_state(&mut self, name: &str) -> Result<StoredState> {
        let Resources { stored, stored_changed, .. } = &mut self.resources;
        if stored.iter().any(|slot| slot.name() == name) || name.is_empty() || name.len() > MAX_NAME {
            let doing = format!("asking for the stored state {name:?}");
            return Err(Error::misuse(doing, "the name is taken, empty, or too long"));
        }
        let slot = Arc::new(Slot::new(name));
        stored.push(slot.clone());
        Ok(StoredState::new(self.stored.remove(name), slot, stored_changed.clone()))
    }

    /// Goes on with connections of this kind that other versions migrate here with
    /// [`Connection::migrate`](crate::Connection::migrate): for each of them `serve` runs in a task of its
    /// own, with the state that came along.
    ///
    /// The other version hears of it together with [`Starting::ready`], so that its connections know at once
    /// whether they can migrate. The first of them may arrive before `ready` has returned. A connection whose
    /// state cannot be read as `S` stays with the other version, and the log says so.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), hotupdate::Error> {
    /// let mut hot = hotupdate::join("/run/echo/control.sock").await?;
    /// hot.on_migrated("echo", |mut connection, count: u64| async move {
    ///     let (mut read, mut write) = tokio::io::split(&mut connection);
    ///     let _ = tokio::io::copy(&mut read, &mut write).await;
    /// })?;
    /// let hot = hot.ready().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::ApiMisuse`] for a kind that was registered before, is empty, or has more than 255 bytes.
    pub fn on_migrated<S, F, Fut>(&mut self, kind: &str, serve: F) -> Result<()>
    where
        S: DeserializeOwned + Send + 'static,
        F: Fn(Connection, S) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.register(Handler::of_json(kind, serve))
    }

    /// As [`Starting::on_migrated`], for state in a form of the caller's own, and, if `listener` is given,
    /// only for connections that were accepted on the listener of that name.
    ///
    /// `inspect` is called while the other process still owns the connection. It returns what shall happen
    /// once this process owns it, or `None` to leave it where it is. Both run in the driver of this process
    /// and must not block.
    ///
    /// ```no_run
    /// # async fn echo(connection: hotupdate::Connection, count: u64) {}
    /// # async fn example() -> Result<(), hotupdate::Error> {
    /// let mut hot = hotupdate::join("/run/echo/control.sock").await?;
    /// hot.on_migrated_bytes("echo", Some("public"), |state| {
    ///     let count = u64::from_le_bytes(state.try_into().ok()?);
    ///     Some(Box::new(move |connection| drop(tokio::spawn(echo(connection, count)))))
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Starting::on_migrated`]. Two registrations of one kind are fine if they are for different
    /// listeners.
    pub fn on_migrated_bytes(
        &mut self,
        kind: &str,
        listener: Option<&str>,
        inspect: impl Fn(Vec<u8>) -> Option<Resume> + Send + Sync + 'static,
    ) -> Result<()> {
        self.register(Handler::new(kind, listener, inspect))
    }

    /// As [`Starting::on_migrated_bytes`], if that is wanted when this process is ready: a server learns
    /// later what it serves. A connection comes with a relay if the other process goes on with what is open
    /// on it, see [`Connection::migrate_relayed`](crate::Connection::migrate_relayed).
    #[doc(hidden)]
    pub fn on_migrated_if(
        &mut self,
        kind: &str,
        listener: Option<&str>,
        is_wanted: impl Fn() -> bool + Send + Sync + 'static,
        inspect: impl Fn(Vec<u8>, Option<Relay>) -> Option<Resume> + Send + Sync + 'static,
    ) -> Result<()> {
        self.register(Handler::with_relay(kind, listener, inspect).only_if(is_wanted))
    }

    fn register(&mut self, handler: Handler) -> Result<()> {
        let ConnectionKind { kind, listener, .. } = &handler.kind;
        let doing = match listener {
            None => format!("registering connections of the kind {kind:?}"),
            Some(listener) => {
                format!("registering connections of the kind {kind:?} of the listener {listener:?}")
            }
        };
        if kind.is_empty() || kind.len() > MAX_NAME {
            return Err(Error::misuse(doing, format!("the name of a kind has 1 to {MAX_NAME} bytes")));
        }
        if self.resources.handlers.iter().any(|other| other.overlaps(&handler)) {
            return Err(Error::misuse(
                doing,
                "the kind was registered before, and a connection has one handler",
            ));
        }
        self.resources.handlers.push(handler);
        Ok(())
    }

    /// Names something that has to be done before another process takes over from this one, or the service
    /// stops: ending what only one process may do. It is awaited while clients are still served here, for at
    /// most the deadline [`Timing::before_release`](crate::Timing::before_release) (5 s by default); several
    /// hooks run at the same time.
    ///
    /// If a hook takes longer, or panics, the handoff fails: this process serves on, [`Serving::is_serving`]
    /// is true again, and the successor and operators are told why. At a rollback the hooks of the version
    /// that is taken back run in the same way. When the service stops they run too, and it stops all the same
    /// after the deadline.
    ///
    /// `hook` may be called more than once, because a handoff that begins may fail. The guide
    /// [`one_worker`](crate::guides::one_worker) shows a worker and its hook.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), hotupdate::Error> {
    /// # async fn finish_what_is_taken_from_the_queue() {}
    /// let mut hot = hotupdate::join("/run/hello/control.sock").await?;
    /// hot.before_release("queue", || async { finish_what_is_taken_from_the_queue().await })?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::ApiMisuse`] for a name that is taken, is empty, or has more than 255 bytes.
    pub fn before_release<F, Fut>(&mut self, name: &str, hook: F) -> Result<()>
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let doing = || format!("naming the hook {name:?}");
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(Error::misuse(doing(), format!("a name has 1 to {MAX_NAME} bytes")));
        }
        if self.resources.hooks.iter().any(|hook| hook.name == name) {
            return Err(Error::misuse(doing(), "the name is taken"));
        }
        self.resources.hooks.push(Hook::new(name, hook));
        Ok(())
    }

    /// Waits until this process serves: resolves with what [`Starting::ready`] returns, or with `None` if
    /// `ready` failed or this value was dropped, so that it never will. For servers that are made before
    /// `ready` and run in a task of their own.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), hotupdate::Error> {
    /// let mut hot = hotupdate::join("/run/echo/control.sock").await?;
    /// let serving = hot.when_serving();
    /// tokio::spawn(async move {
    ///     let Some(hot) = serving.await else { return };
    ///     println!("generation {} serves", hot.generation());
    /// });
    /// let hot = hot.ready().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn when_serving(&self) -> impl Future<Output = Option<Serving>> + Send + 'static {
        let mut serving = self.serving.subscribe();
        async move { serving.wait_for(Option::is_some).await.ok()?.clone() }
    }

    /// This process is warm: the incumbent stops accepting, this one starts. Returns when it serves.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] and other kinds if the handoff failed: the incumbent serves on, this process
    /// should exit non-zero. [`ErrorKind::ApiMisuse`] if there are more listeners than a successor or an
    /// operator could be told of: some 6,000 of them, fewer if their names are long.
    pub async fn ready(mut self) -> Result<Serving> {
        let settled = self.settle();
        self.or_trouble(settled).await?;
        let Self {
            application,
            generation,
            span: _,
            release: _,
            offered,
            state,
            stored: _,
            connections,
            resources,
            ready,
            failed,
            serving,
            timing: _,
            incumbent: _,
            in_probation: _,
            abandon_listeners: _,
            misdirected: _,
        } = self;
        // A large state makes room for the final word.
        drop((state, offered));
        let tasks = resources.tasks.clone();
        let (reply, served) = oneshot::channel();
        let _ = application.send(FromApplication::Ready { resources, ready, reply });
        match served.await {
            Ok(served) => {
                let now = Serving::new(generation, connections, tasks, served?);
                serving.send_replace(Some(now.clone()));
                Ok(now)
            }
            Err(_) => Err(match failed.map(|mut failed| failed.try_recv()) {
                Some(Ok(error)) => error,
                _ => Error::new(ErrorKind::Local, "becoming ready", "the runtime is shutting down"),
            }),
        }
    }

    /// Gives up, and says why: to the incumbent, which serves on, and so to operators. Of a value that is
    /// only dropped they hear that the application gave up.
    ///
    /// ```no_run
    /// # async fn load() -> std::io::Result<()> { Ok(()) }
    /// # async fn example() -> Result<(), hotupdate::Error> {
    /// let hot = hotupdate::join("/run/hello/control.sock").await?;
    /// if let Err(error) = load().await {
    ///     return Err(hot.give_up("loading the catalogue", error).await);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn give_up(self, doing: impl Into<String>, why: impl ToString) -> Error {
        let error = Error::new(ErrorKind::Local, doing, why.to_string()).while_served_by(self.serves_on());
        self.tell_trouble(&error).await;
        error
    }

    /// What is known of the listeners when the application is ready: which were dropped, and which were not
    /// claimed.
    fn settle(&mut self) -> Result<()> {
        self.claims_something()?;
        let Self { span, offered, stored, resources, ready, .. } = self;
        resources.stored.extend(stored.drain().map(|(name, _)| Arc::new(Slot::empty(&name))));
        for (name, address) in resources.take_dropped() {
            tracing::warn!(
                parent: &*span, %name, %address,
                "the application dropped this listener, or the server that had it, before it was ready; it is \
                 closed"
            );
            ready.bound.retain(|bound| *bound != name);
            if ready.adopted.contains(&name) {
                ready.adopted.retain(|adopted| *adopted != name);
                ready.unclaimed.push(name);
            }
        }
        resources.stale.extend(offered.iter().map(|offered| offered.name.clone()));
        ready.unclaimed.extend(offered.iter().map(|offered| offered.name.clone()));
        for Offered { name, kind, address, .. } in offered.iter() {
            tracing::warn!(
                parent: &*span, name, %kind, %address,
                "this version does not claim the listener; it closes with the incumbent"
            );
            if ready.bound.contains(name) {
                continue;
            }
            let text = format!(
                "this version does not claim the listener {name:?} ({kind} {address}): its clients are refused \
                 when the version before it has let go; if that is not meant, `hotctl rollback`, or hand off \
                 to a version that claims it"
            );
            resources.warnings.push(Warning::new("unclaimed_listener", text));
        }
        ready.release = self.release;
        self.resources.check()
    }

    /// A version that claims none of the listeners is probably another service. One that has claimed a
    /// listener and dropped it is not.
    fn claims_something(&self) -> Result<()> {
        let Some(incumbent) = self.incumbent.as_ref().filter(|_| !self.abandon_listeners) else {
            return Ok(());
        };
        let Ready { adopted, bound, .. } = &self.ready;
        let offered: Vec<_> = self.offered.iter().map(|offered| offered.name.as_str()).collect();
        if offered.is_empty() || !adopted.is_empty() || bound.iter().any(|name| offered.contains(&&**name)) {
            return Ok(());
        }
        let more = if offered.len() > 3 { ", …" } else { "" };
        let names = format!("{}{more}", offered[..offered.len().min(3)].join(", "));
        let why = format!(
            "this version claims none of the listeners that {incumbent} has ({names}): it is probably another \
             service; give it a control socket of its own (where does HOTUPDATE_SOCKET lead?), or let it say \
             `abandon_listeners`"
        );
        Err(Error::new(ErrorKind::Refused, "becoming ready", why).while_served_by(self.serves_on()))
    }

    fn serves_on(&self) -> Option<String> {
        self.incumbent.as_ref().map(|incumbent| format!("process {incumbent}"))
    }

    /// An error of this process is told to the incumbent at once: what follows may be the end of this
    /// process.
    async fn or_trouble<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result {
            self.tell_trouble(error).await;
        }
        result
    }

    async fn tell_trouble(&self, error: &Error) {
        if self.incumbent.is_some() {
            let (told, is_told) = oneshot::channel();
            let _ = self.application.send(FromApplication::Trouble { what: error.reason(), told });
            let _ = is_told.await;
        }
    }
}
