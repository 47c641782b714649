//! Declared objects: what `aap apply`, `diff`, `get`, `delete` and `aap sink` ask of the coordinator.
//!
//! A document is checked whole before anything changes; then it is written to the store, and what it declares is started.

mod declared;

use std::sync::Arc;

use aap_access::{Kind, Object, Verb};
use aap_proto::status_of_problem;
use aap_proto::v1::{self, resources_server::Resources};
use aap_runtime::documents::{Document, documents};
use aap_runtime::{Clock, SecretSource, resolve_secrets};
use aap_store::{ResourceRecord, ResourceStore, SinkState};
use aap_types::{ExitCode, Problem};
use camino::Utf8PathBuf;
use tonic::{Request, Response, Status};

use crate::access::{self, Caller, Guard, People};
use crate::catalogs::{self, Catalogs};
use crate::cluster::{Joined, Lead};
use crate::gateway::{self, Routes};
use crate::second_copy::SecondCopy;
use crate::sinks::{self, SinkSpec, Sinks, Start, StoreLedger, blocking, dead_letter_row};
use crate::sources::{self, Sources};
use declared::{Wanted, change_of, check, kind_of, may_apply, not_found};
pub(crate) use declared::{object, secrets_of};

/// How long a sink may take to say whether it could write.
const TEST_DEADLINE: std::time::Duration = std::time::Duration::from_secs(25);

/// The service. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct ResourceService {
    pub(crate) store: Arc<dyn ResourceStore>,
    pub(crate) copy: SecondCopy,
    pub(crate) sinks: Sinks,
    pub(crate) sources: Sources,
    pub(crate) catalogs: Catalogs,
    pub(crate) routes: Routes,
    pub(crate) clock: Arc<dyn Clock>,
    /// Who may do what, which roles decide.
    pub(crate) guard: Guard,
    pub(crate) people: People,
    /// In a cluster one coordinator runs what is declared, not necessarily this one.
    pub(crate) lead: Option<Lead>,
    /// The cluster, where this is one of several coordinators.
    pub(crate) joined: Option<Joined>,
    /// Who is asked for the secrets that documents refer to.
    pub(crate) secrets: Arc<dyn SecretSource>,
    /// Files and folders of the platform's own, which no document may name as a secret.
    pub(crate) own: Vec<Utf8PathBuf>,
    /// One change at a time: what was checked is still so when it is written.
    pub(crate) turn: Arc<tokio::sync::Mutex<()>>,
}

impl ResourceService {
    fn wanted(&self, files: &[v1::apply_request::File]) -> Result<Vec<Wanted>, Problem> {
        let mut all: Vec<Wanted> = vec![];
        for file in files {
            for document in documents(file.path.as_str().into(), &file.text) {
                let wanted = check(&document)?;
                if all.iter().any(|known| known.kind == wanted.kind && known.name == wanted.name) {
                    let message = format!("a second {} `{}`", wanted.kind, wanted.name);
                    let hint = Some("keep one of them".to_owned());
                    return Err(document.error("name", message, hint).problem());
                }
                all.push(wanted);
            }
        }
        if all.is_empty() {
            let problem =
                Problem::new("config.invalid", ExitCode::Usage, "there is no document in what was given");
            return Err(problem.hint("a document begins with `apiVersion: aap/v1`"));
        }
        Ok(all)
    }

    /// What would change, against what is there.
    fn plan(&self, wanted: Vec<Wanted>, known: &[ResourceRecord]) -> Vec<(Wanted, Option<ResourceRecord>)> {
        let find = |wanted: &Wanted| {
            known.iter().find(|known| known.kind == wanted.kind && known.name == wanted.name).cloned()
        };
        wanted
            .into_iter()
            .map(|wanted| (find(&wanted), wanted))
            .map(|(known, wanted)| (wanted, known))
            .collect()
    }

    /// Writes the second copy. Call it in one's turn: two writers would tear it.
    async fn keep_copy(&self, without: Option<String>) -> Result<(), Problem> {
        if self.lead.is_some() {
            // The store is not lost with this machine, and what another coordinator declares would not be in the copy.
            return Ok(());
        }
        let copy = self.copy.clone();
        let written = tokio::task::spawn_blocking(move || copy.write(without.as_deref())).await;
        let problem = || {
            let message = "the second copy of what is declared cannot be written";
            Problem::new("resource.store", ExitCode::Failed, message)
        };
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(problem().cause(format!("{error:#}"))),
            Err(panic) => Err(problem().caused_by(&panic)),
        }
    }

    /// What is declared, as far as somebody may see it.
    async fn seen(&self, caller: &Caller) -> Result<Vec<ResourceRecord>, Problem> {
        let mut all = self.all().await?;
        all.retain(|known| caller.may(Verb::Read, object(&known.kind, &known.name)));
        Ok(all)
    }

    /// Lets on who may do that to a sink.
    fn require_sink(&self, caller: &Caller, verb: Verb, name: &str) -> Result<(), Problem> {
        caller.require_of(verb, object(sinks::KIND, name), || not_found(sinks::KIND, name, &[]))
    }

    async fn all(&self) -> Result<Vec<ResourceRecord>, Problem> {
        let store = self.store.clone();
        blocking(move || store.resources()).await
    }

    async fn apply_now(&self, caller: &Caller, request: v1::ApplyRequest) -> Result<v1::ApplyReply, Problem> {
        let _turn = self.turn.lock().await;
        let wanted = self.wanted(&request.files)?;
        wanted.iter().try_for_each(|wanted| may_apply(caller, wanted, &self.own))?;
        let plan = self.plan(wanted, &self.all().await?);
        let mut changes = vec![];
        if let Some(lead) = &self.lead
            && plan.iter().any(|(wanted, known)| wanted.start == Some(Start::Now) && known.is_none())
        {
            // Where "now" is depends on what landed anywhere.
            lead.catch_up().await?;
        }
        for (wanted, known) in plan {
            let change = change_of(&wanted, known.as_ref());
            let is_new = change.action != "unchanged";
            if !request.dry_run && (is_new || !self.is_running(&wanted)) {
                let record = match known.as_ref().filter(|_| !is_new) {
                    Some(known) => known.clone(),
                    None => self.record(&wanted, known.as_ref(), caller.name())?,
                };
                if is_new {
                    self.write(record.clone(), wanted.start.filter(|_| known.is_none())).await?;
                    self.keep_copy(None).await.unwrap_or_else(|problem| not_copied(&problem));
                }
                self.start(&record).await?;
            } else if !request.dry_run && wanted.kind == sinks::KIND {
                // Somebody who applies what is there already wants it to be tried again.
                self.poke(&wanted.name)?;
            }
            changes.push(change);
        }
        Ok(v1::ApplyReply { changes })
    }

    fn is_running(&self, wanted: &Wanted) -> bool {
        if self.lead.is_some() || wanted.kind == access::ROLE {
            return true;
        }
        match wanted.kind {
            catalogs::KIND => self.catalogs.find(&wanted.name).is_some(),
            gateway::KIND => self.routes.is_there(&wanted.name),
            sources::KIND => self.sources.is_running(&wanted.name),
            _ => self.sinks.is_running(&wanted.name),
        }
    }

    /// Makes a sink try again, where it runs here.
    fn poke(&self, name: &str) -> Result<(), Problem> {
        match &self.lead {
            Some(lead) if !lead.leads() => Ok(()),
            Some(_) if !self.sinks.is_running(name) => Ok(()),
            _ => self.sinks.poke(name),
        }
    }

    /// Refuses at a coordinator that does not run sinks.
    async fn require_sinks(&self) -> Result<(), Problem> {
        match &self.lead {
            Some(lead) => lead.require().await,
            None => Ok(()),
        }
    }

    async fn start(&self, record: &ResourceRecord) -> Result<(), Problem> {
        if record.kind == access::ROLE {
            self.guard.forget();
            return Ok(());
        }
        if let Some(lead) = &self.lead {
            lead.look();
            return Ok(());
        }
        match record.kind.as_str() {
            catalogs::KIND => self.catalogs.start(record),
            gateway::KIND => self.routes.start(record),
            sources::KIND => self.sources.start(record).await,
            _ => self.sinks.start(record).await,
        }
    }

    fn record(
        &self,
        wanted: &Wanted,
        known: Option<&ResourceRecord>,
        author: &str,
    ) -> Result<ResourceRecord, Problem> {
        let now_us = self.clock.unix_us();
        Ok(ResourceRecord {
            kind: wanted.kind.to_owned(),
            name: wanted.name.clone(),
            uid: match known {
                Some(known) => known.uid.clone(),
                None => mint_uid()?,
            },
            revision: known.map_or(0, |known| known.revision) + 1,
            document: wanted.text.clone(),
            author: author.to_owned(),
            created_us: known.map_or(now_us, |known| known.created_us),
            updated_us: now_us,
        })
    }

    /// Writes a change; of an object that is new, where it begins, too.
    async fn write(&self, record: ResourceRecord, start: Option<Start>) -> Result<(), Problem> {
        let store = self.store.clone();
        let state = start.map(|start| SinkState {
            starts: if start == Start::Now { self.sinks.tails() } else { vec![] },
            start_us: match start {
                Start::At(start_us) => Some(start_us),
                Start::Earliest | Start::Now => None,
            },
            ..SinkState::default()
        });
        blocking(move || {
            if let Some(state) = state {
                // First, so that a sink never runs without knowing where it begins.
                store.set_sink_state(&record.uid, &state)?;
            }
            store.put_resource(&record)
        })
        .await
    }

    async fn delete_now(&self, caller: &Caller, kind: &str, name: &str) -> Result<v1::DeleteReply, Problem> {
        let kind = kind_of(kind)?;
        let _turn = self.turn.lock().await;
        let all = self.seen(caller).await?;
        caller.require_of(Verb::Delete, object(kind, name), || not_found(kind, name, &all))?;
        let known = all.iter().find(|known| known.kind == kind && known.name == name);
        let uid = known.ok_or_else(|| not_found(kind, name, &all))?.uid.clone();
        // In a cluster whoever runs it sees that it is gone.
        match kind {
            access::ROLE => self.people.require_unused(name).await?,
            _ if self.lead.is_some() => {}
            catalogs::KIND => self.catalogs.stop(name),
            gateway::KIND => self.routes.stop(name),
            sources::KIND => self.sources.stop(name).await,
            _ => drop(self.sinks.stop(name).await),
        }
        // Before it is gone: what was deleted must not come back from the copy.
        self.keep_copy(Some(uid)).await?;
        let (store, wanted) = (self.store.clone(), name.to_owned());
        blocking(move || store.delete_resource(kind, &wanted)).await?;
        self.guard.forget();
        if kind == sources::KIND && self.lead.is_none() {
            self.sources.clean_up(name).await;
        }
        if let Some(lead) = &self.lead {
            lead.look();
        }
        Ok(v1::DeleteReply { kind: kind.to_owned(), name: name.to_owned() })
    }

    async fn letters(&self, name: &str, limit: u64) -> Result<v1::ListDeadLettersReply, Problem> {
        self.require_sinks().await?;
        let uid = self.sinks.find(name)?.uid;
        let limit = if limit == 0 { usize::MAX } else { usize::try_from(limit).unwrap_or(usize::MAX) };
        let store = self.store.clone();
        let (letters, total) =
            blocking(move || Ok((store.dead_letters(&uid, limit)?, store.dead_letter_count(&uid)?))).await?;
        let letters = letters.into_iter().map(|letter| v1::DeadLetter {
            node: letter.batch.key.node.to_string(),
            epoch: letter.batch.key.epoch.0,
            stream: letter.batch.key.stream.to_string(),
            sequence: letter.batch.sequence.0,
            row: letter.row,
            document: dead_letter_row(&letter),
            reason: letter.reason,
            at_us: letter.at_us,
        });
        Ok(v1::ListDeadLettersReply { letters: letters.collect(), total })
    }

    async fn replay(&self, name: &str) -> Result<u64, Problem> {
        self.require_sinks().await?;
        let _turn = self.turn.lock().await;
        let running = self.sinks.find(name)?;
        let (store, now_us) = (self.store.clone(), self.clock.unix_us());
        let (_, rows) = blocking(move || store.begin_replay(&running.uid, now_us)).await?;
        self.keep_copy(None).await.unwrap_or_else(|problem| not_copied(&problem));
        self.sinks.poke(name)?;
        Ok(rows)
    }

    async fn test(&self, name: &str) -> Result<v1::TestSinkReply, Problem> {
        let all = self.all().await?;
        let known = all.iter().find(|known| known.kind == sinks::KIND && known.name == name);
        let known = known.ok_or_else(|| not_found(sinks::KIND, name, &all))?;
        let document = Document::of_record(name, &known.document);
        let spec = SinkSpec::read(&document).map_err(|error| error.problem())?;
        let target = aap_sinks::Target { name: name.to_owned(), uid: known.uid.clone() };
        let ledger = StoreLedger { store: self.store.clone(), uid: known.uid.clone() };
        let mut sink = spec.build(target, Arc::new(ledger));
        let guarantee = sink.guarantee().as_str().to_owned();
        resolve_secrets(&spec.secrets(), self.secrets.as_ref()).await?;
        let probed = tokio::time::timeout(TEST_DEADLINE, sink.probe()).await.map_err(|_| {
            let message = format!("`{}` did not answer within {} s", spec.place(), TEST_DEADLINE.as_secs());
            Problem::new("sink.unreachable", ExitCode::Unavailable, message)
                .hint("see that the server runs and that this machine reaches it")
        })?;
        Ok(v1::TestSinkReply { found: probed.map_err(|failure| *failure.problem)?, guarantee })
    }
}

/// 128 random bits as hexadecimal digits.
pub(crate) fn mint_uid() -> Result<String, Problem> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(|error| {
        Problem::new("platform.random", ExitCode::Failed, "the system gives no random numbers")
            .caused_by(&error)
    })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The change stands all the same: the store has it.
fn not_copied(problem: &Problem) {
    tracing::warn!(causes = ?problem.causes, "{problem}");
}

fn refuse(problem: Problem) -> Status {
    status_of_problem(&problem)
}

#[tonic::async_trait]
impl Resources for ResourceService {
    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Result<Response<v1::ApplyReply>, Status> {
        let caller = Caller::of(&request).map_err(refuse)?;
        Ok(Response::new(self.apply_now(&caller, request.into_inner()).await.map_err(refuse)?))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetReply>, Status> {
        let caller = Caller::of(&request).map_err(refuse)?;
        let v1::GetRequest { kind, name } = request.into_inner();
        let kind = if kind.is_empty() { None } else { Some(kind_of(&kind).map_err(refuse)?) };
        let all = self.seen(&caller).await.map_err(refuse)?;
        let chosen = all.iter().filter(|known| {
            kind.is_none_or(|kind| kind == known.kind) && (name.is_empty() || name == known.name)
        });
        let resources: Vec<v1::Resource> = chosen
            .map(|known| v1::Resource {
                kind: known.kind.clone(),
                name: known.name.clone(),
                revision: known.revision,
                author: known.author.clone(),
                created_us: known.created_us,
                updated_us: known.updated_us,
                document: known.document.clone(),
            })
            .collect();
        if resources.is_empty() && !name.is_empty() {
            return Err(refuse(not_found(kind.unwrap_or(sinks::KIND), &name, &all)));
        }
        Ok(Response::new(v1::GetReply { resources }))
    }

    async fn delete(&self, request: Request<v1::DeleteRequest>) -> Result<Response<v1::DeleteReply>, Status> {
        let caller = Caller::of(&request).map_err(refuse)?;
        let v1::DeleteRequest { kind, name } = request.into_inner();
        Ok(Response::new(self.delete_now(&caller, &kind, &name).await.map_err(refuse)?))
    }

    async fn list_sinks(
        &self,
        request: Request<v1::ListSinksRequest>,
    ) -> Result<Response<v1::ListSinksReply>, Status> {
        let caller = Caller::of(&request).map_err(refuse)?;
        self.require_sinks().await.map_err(refuse)?;
        let (sinks, name) = (self.sinks.clone(), request.into_inner().name);
        if !name.is_empty() {
            self.require_sink(&caller, Verb::Read, &name).map_err(refuse)?;
        }
        let listed = tokio::task::spawn_blocking(move || sinks.statuses(&name)).await;
        let listed = listed.map_err(|panic| {
            refuse(Problem::new("platform.bug", ExitCode::Bug, "listing sinks failed").caused_by(&panic))
        })?;
        let mut sinks = listed.map_err(refuse)?;
        let reach = caller.reach(Kind::Sink, Verb::Read);
        sinks.retain(|sink| reach.admits(Object::named(Kind::Sink, &sink.name)));
        Ok(Response::new(v1::ListSinksReply { sinks }))
    }

    async fn test_sink(
        &self,
        request: Request<v1::SinkRequest>,
    ) -> Result<Response<v1::TestSinkReply>, Status> {
        let caller = Caller::of(&request).map_err(refuse)?;
        let name = request.into_inner().name;
        self.require_sink(&caller, Verb::Operate, &name).map_err(refuse)?;
        Ok(Response::new(self.test(&name).await.map_err(refuse)?))
    }

    async fn pause_sink(&self, request: Request<v1::SinkRequest>) -> Result<Response<v1::SinkReply>, Status> {
        let caller = Caller::of(&request).map_err(refuse)?;
        let name = request.into_inner().name;
        self.require_sink(&caller, Verb::Operate, &name).map_err(refuse)?;
        self.require_sinks().await.map_err(refuse)?;
        let _turn = self.turn.lock().await;
        self.sinks.set_paused(&name, true).await.map_err(refuse)?;
        self.keep_copy(None).await.unwrap_or_else(|problem| not_copied(&problem));
        Ok(Response::new(v1::SinkReply { name, state: "paused".to_owned() }))
    }

    async fn resume_sink(
        &self,
        request: Request<v1::SinkRequest>,
    ) -> Result<Response<v1::SinkReply>, Status> {
        let caller = Caller::of(&request).map_err(refuse)?;
        let name = request.into_inner().name;
        self.require_sink(&caller, Verb::Operate, &name).map_err(refuse)?;
        self.require_sinks().await.map_err(refuse)?;
        let _turn = self.turn.lock().await;
        self.sinks.set_paused(&name, false).await.map_err(refuse)?;
        self.keep_copy(None).await.unwrap_or_else(|problem| not_copied(&problem));
        Ok(Response::new(v1::SinkReply { name, state: "starting".to_owned() }))
    }

    async fn list_dead_letters(
        &self,
        request: Request<v1::ListDeadLettersRequest>,
    ) -> Result<Response<v1::ListDeadLettersReply>, Status> {
        let caller = Caller::of(&request).map_err(refuse)?;
        let v1::ListDeadLettersRequest { name, limit } = request.into_inner();
        self.require_sink(&caller, Verb::Query, &name).map_err(refuse)?;
        Ok(Response::new(self.letters(&name, limit).await.map_err(refuse)?))
    }

    async fn replay_dead_letters(
        &self,
        request: Request<v1::SinkRequest>,
    ) -> Result<Response<v1::ReplayReply>, Status> {
        let caller = Caller::of(&request).map_err(refuse)?;
        let name = request.into_inner().name;
        self.require_sink(&caller, Verb::Operate, &name).map_err(refuse)?;
        let rows = self.replay(&name).await.map_err(refuse)?;
        Ok(Response::new(v1::ReplayReply { rows }))
    }

    async fn show_cluster(
        &self,
        _: Request<v1::ShowClusterRequest>,
    ) -> Result<Response<v1::ShowClusterReply>, Status> {
        let Some(joined) = self.joined.clone() else {
            return Ok(Response::new(v1::ShowClusterReply::default()));
        };
        Ok(Response::new(joined.show().await.map_err(refuse)?))
    }

    async fn purge_dead_letters(
        &self,
        request: Request<v1::SinkRequest>,
    ) -> Result<Response<v1::PurgeReply>, Status> {
        let caller = Caller::of(&request).map_err(refuse)?;
        let name = request.into_inner().name;
        self.require_sink(&caller, Verb::Delete, &name).map_err(refuse)?;
        self.require_sinks().await.map_err(refuse)?;
        let running = self.sinks.find(&name).map_err(refuse)?;
        let store = self.store.clone();
        let rows = blocking(move || store.purge_dead_letters(&running.uid)).await.map_err(refuse)?;
        Ok(Response::new(v1::PurgeReply { rows }))
    }
}
