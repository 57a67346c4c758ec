use std::collections::BTreeMap;

use inn_domain::network::Instance;
use inn_netlink::{BatchError, Error, Message, Payload, Protocol, Socket, attributes, be32};
use rustix::io::Errno;

use super::decode::{self, Observed, ObservedRule, ObservedTable};
use super::encode;
use super::model::{ElementKey, Family, Tables};
use super::numbers::*;
use super::plan::{Step, Transaction, plan, plan_touched};
use super::wanted::Wanted;

/// How often others may change nf_tables between our reading and our writing
/// before we give up; the next round tries again.
const TRIES: usize = 10;

#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error(
        "cannot speak to nf_tables: the kernel lacks it, or this process may not (it needs CAP_NET_ADMIN)"
    )]
    Open(#[source] Error),
    #[error("cannot read {what} of the table {table}")]
    Read { what: &'static str, table: String, source: Error },
    #[error("the kernel refuses to {step}")]
    Refused { step: String, source: BatchError },
    #[error(
        "others change nf_tables faster than it can be read: what keeps reloading the firewall?"
    )]
    Restless,
}

/// Our tables in the kernel, as one socket sees them.
///
/// It remembers what it last read and wrote. As long as the kernel's
/// generation is the one it left behind, nothing is read again.
#[derive(Debug)]
pub struct Kernel {
    socket: Socket,
    instance: Instance,
    known: Option<Observed>,
    /// Whether what is known is as wanted when that was last followed.
    follows: bool,
    /// Chains of which the handles of rules are not known yet.
    stale: Vec<(Family, String)>,
}

impl Kernel {
    /// In the network namespace of the calling thread, for good.
    pub fn open(instance: Instance) -> Result<Self, KernelError> {
        let socket = Socket::open(Protocol::Netfilter).map_err(KernelError::Open)?;
        let mut kernel = Self { socket, instance, known: None, follows: false, stale: Vec::new() };
        kernel.generation().map_err(KernelError::Open)?;
        Ok(kernel)
    }

    /// By which what we change is known to be ours.
    pub fn port(&self) -> u32 {
        self.socket.port()
    }

    /// What there is, from memory where that is still true.
    pub fn read(&mut self) -> Result<&Observed, KernelError> {
        for _ in 0..TRIES {
            let generation = self.generation().map_err(|error| self.cannot("the state", error))?;
            if self.known.as_ref().is_none_or(|known| known.generation != generation) {
                self.forget();
                self.stale.clear();
                let tables = self.read_all()?;
                self.known = Some(Observed { generation, tables });
            } else if !self.stale.is_empty() {
                self.read_stale()?;
            }
            // What was read belongs together only if nothing changed meanwhile.
            let after = self.generation().map_err(|error| self.cannot("the state", error))?;
            if after == generation {
                return self.known.as_ref().ok_or(KernelError::Restless);
            }
        }
        Err(KernelError::Restless)
    }

    /// The same, with what the rules have counted until now.
    pub fn count(&mut self) -> Result<&Observed, KernelError> {
        for _ in 0..TRIES {
            let families: Vec<Family> = self.read()?.tables.keys().copied().collect();
            for family in families {
                let counted = self.read_rules(family)?;
                let table = self.known.as_mut().and_then(|known| known.tables.get_mut(&family));
                let Some(table) = table else { continue };
                for (chain, rules) in counted {
                    if let Some(chain) = table.chains.get_mut(&chain) {
                        chain.rules = rules;
                    }
                }
            }
            let after = self.generation().map_err(|error| self.cannot("the state", error))?;
            if self.known.as_ref().is_some_and(|known| known.generation == after) {
                return self.known.as_ref().ok_or(KernelError::Restless);
            }
        }
        Err(KernelError::Restless)
    }

    /// Reads everything again next time.
    pub fn forget(&mut self) {
        self.known = None;
        self.follows = false;
    }

    /// Makes it as wanted, and says what was done; nothing, if it was so.
    pub fn reconcile(&mut self, wanted: &Tables) -> Result<Transaction, KernelError> {
        let done = self.bring(|_, observed| plan(wanted, observed));
        self.follows = false;
        done
    }

    /// The same, always with the same `wanted`: where nobody else has changed
    /// nf_tables, only what was touched since the last time is looked at.
    pub fn follow(&mut self, wanted: &mut Wanted) -> Result<Transaction, KernelError> {
        let done = self.bring(|follows, observed| {
            if follows { plan_touched(wanted, observed) } else { plan(wanted.tables(), observed) }
        })?;
        wanted.applied();
        self.follows = true;
        Ok(done)
    }

    fn bring(
        &mut self,
        plan: impl Fn(bool, &Observed) -> Transaction,
    ) -> Result<Transaction, KernelError> {
        for _ in 0..TRIES {
            self.read()?;
            let transaction = self.planned(&plan)?;
            match self.apply(&transaction) {
                Ok(()) => return Ok(transaction),
                // Somebody was faster: what is planned may be wrong by now.
                Err(KernelError::Refused { source, .. }) if source.error.is(Errno::RESTART) => {}
                // As a plan from a memory that is wrong is: once from the source.
                Err(KernelError::Refused { source, .. })
                    if source.error.is(Errno::NOENT) || source.error.is(Errno::EXIST) =>
                {
                    self.forget();
                    self.read()?;
                    let transaction = self.planned(&plan)?;
                    self.apply(&transaction)?;
                    return Ok(transaction);
                }
                Err(error) => return Err(error),
            }
        }
        Err(KernelError::Restless)
    }

    fn planned(
        &self,
        plan: &impl Fn(bool, &Observed) -> Transaction,
    ) -> Result<Transaction, KernelError> {
        let observed = self.known.as_ref().ok_or(KernelError::Restless)?;
        Ok(plan(self.follows, observed))
    }

    /// In one batch.
    pub fn apply(&mut self, transaction: &Transaction) -> Result<(), KernelError> {
        if transaction.is_empty() {
            return Ok(());
        }
        let (of, messages): (Vec<usize>, Vec<Message>) =
            encode::messages(transaction).into_iter().unzip();
        let (begin, end) = encode::ends(Some(transaction.generation));
        let sent = self.socket.batch(&begin, &messages, &end);
        if let Err(source) = sent {
            self.forget();
            let at = source.at.and_then(|at| of.get(at)).copied();
            let step = at.map_or_else(
                || "change its tables".to_owned(),
                |at| transaction.part(at..at + 1).trim_end().to_owned(),
            );
            return Err(KernelError::Refused { step, source });
        }
        self.one_generation_on();
        if let Some(known) = &mut self.known {
            for (family, step) in &transaction.steps {
                remember(known, &mut self.stale, *family, step);
            }
        }
        Ok(())
    }

    /// Adds elements that end by themselves, each after so many milliseconds;
    /// those that are there already get the new time. Sets that are not there
    /// any more are passed over.
    pub fn learn(
        &mut self,
        family: Family,
        set: &str,
        elements: &[(ElementKey, u64)],
    ) -> Result<(), KernelError> {
        let table = self.instance.table();
        let mut messages = Vec::new();
        for (key, milliseconds) in elements {
            // A time that is there is not changed by adding: it goes first.
            for (kind, time) in
                [(NEWSETELEM, None), (DELSETELEM, None), (NEWSETELEM, Some(*milliseconds))]
            {
                messages.push(encode::timed(family, &table, set, kind, key, time));
            }
        }
        match self.change(&messages) {
            Ok(()) => Ok(()),
            Err(gone) if gone.error.is(Errno::NOENT) => Ok(()),
            Err(source) => {
                Err(KernelError::Refused { step: format!("add addresses to {set}"), source })
            }
        }
    }

    /// In one batch, what is not in our tables as we remember them. As our own
    /// change it leaves what is known true.
    pub(super) fn change(&mut self, messages: &[Message]) -> Result<(), BatchError> {
        if messages.is_empty() {
            return Ok(());
        }
        let known = self.known.as_ref().map(|known| known.generation);
        let (begin, end) = encode::ends(known);
        let sent = self.socket.batch(&begin, messages, &end);
        match &sent {
            Ok(()) => self.one_generation_on(),
            Err(error) if known.is_some() && error.error.is(Errno::RESTART) => {
                self.forget();
                let (begin, end) = encode::ends(None);
                return self.socket.batch(&begin, messages, &end);
            }
            Err(_) => {}
        }
        sent
    }

    pub(super) fn instance(&self) -> &Instance {
        &self.instance
    }

    /// A batch makes one generation, and the kernel's check saw to it that ours
    /// came next; the counter leaves 0 out.
    fn one_generation_on(&mut self) {
        if let Some(known) = &mut self.known {
            known.generation = match known.generation.wrapping_add(1) {
                0 => 1,
                next => next,
            };
        }
    }

    fn generation(&mut self) -> Result<u32, Error> {
        let ask = encode::fixed(0);
        let (get, new) = (encode::kind(GETGEN), encode::kind(NEWGEN));
        let told = self.socket.ask(get, new, ask.as_bytes())?;
        let body = told.get(4..).unwrap_or_default();
        let id = attributes(body).find(|(kind, _)| *kind == GEN_ID);
        id.and_then(|(_, content)| be32(content)).ok_or_else(|| Errno::NOMSG.into())
    }

    fn read_all(&mut self) -> Result<BTreeMap<Family, ObservedTable>, KernelError> {
        let name = self.instance.table();
        let mut tables = BTreeMap::new();
        for family in Family::ALL {
            let all = self.dump("tables", GETTABLE, NEWTABLE, &encode::fixed(family.number()))?;
            let is_ours = |message: &&Vec<u8>| {
                message.first() == Some(&family.number())
                    && decode::name(message, TABLE_NAME).as_deref() == Some(&*name)
            };
            if let Some(ours) = all.iter().find(is_ours) {
                let mut table = self.read_table(family)?;
                table.dormant = decode::is_dormant(ours);
                tables.insert(family, table);
            }
        }
        Ok(tables)
    }

    fn read_table(&mut self, family: Family) -> Result<ObservedTable, KernelError> {
        let name = self.instance.table();
        let named = |attribute| {
            let mut ask = encode::fixed(family.number());
            ask.put_text(attribute, &name);
            ask
        };
        let mut table = ObservedTable::default();
        // A dump of chains takes no filter: others' are among them.
        for message in self.dump("chains", GETCHAIN, NEWCHAIN, &named(CHAIN_TABLE))? {
            let ours = decode::name(&message, CHAIN_TABLE).as_deref() == Some(&*name);
            if let Some((chain, observed)) = decode::chain(&message).filter(|_| ours) {
                table.chains.insert(chain, observed);
            }
        }
        for (chain, rules) in self.read_rules(family)? {
            if let Some(chain) = table.chains.get_mut(&chain) {
                chain.rules = rules;
            }
        }
        for message in self.dump("sets", GETSET, NEWSET, &named(SET_TABLE))? {
            let ours = decode::name(&message, SET_TABLE).as_deref() == Some(&*name);
            let Some((set, mut observed)) = decode::set(&message).filter(|_| ours) else {
                continue;
            };
            if let Some(shape) = observed.shape.clone().filter(|shape| !shape.timeout) {
                let mut ask = named(ELEM_LIST_TABLE);
                ask.put_text(ELEM_LIST_SET, &set);
                let messages = self.dump("elements", GETSETELEM, NEWSETELEM, &ask)?;
                observed.elements = decode::elements(&shape, &messages);
            }
            table.sets.insert(set, observed);
        }
        Ok(table)
    }

    /// Of all chains that have some, in order.
    fn read_rules(
        &mut self,
        family: Family,
    ) -> Result<BTreeMap<String, Vec<ObservedRule>>, KernelError> {
        let name = self.instance.table();
        let mut ask = encode::fixed(family.number());
        ask.put_text(RULE_TABLE, &name);
        let mut rules: BTreeMap<String, Vec<ObservedRule>> = BTreeMap::new();
        for message in self.dump("rules", GETRULE, NEWRULE, &ask)? {
            let ours = decode::name(&message, RULE_TABLE).as_deref() == Some(&*name);
            if let Some((chain, rule)) = decode::rule(&message).filter(|_| ours) {
                rules.entry(chain).or_default().push(rule);
            }
        }
        Ok(rules)
    }

    /// The handles of rules that we have made.
    fn read_stale(&mut self) -> Result<(), KernelError> {
        let name = self.instance.table();
        for (family, chain) in std::mem::take(&mut self.stale) {
            let mut ask = encode::fixed(family.number());
            ask.put_text(RULE_TABLE, &name).put_text(RULE_CHAIN, &chain);
            let messages = self.dump("rules", GETRULE, NEWRULE, &ask)?;
            let rules = messages.iter().filter_map(|message| decode::rule(message));
            let rules = rules.filter(|(of, _)| *of == chain).map(|(_, rule)| rule).collect();
            let table = self.known.as_mut().and_then(|known| known.tables.get_mut(&family));
            if let Some(observed) = table.and_then(|table| table.chains.get_mut(&chain)) {
                observed.rules = rules;
            }
        }
        Ok(())
    }

    pub(super) fn dump(
        &mut self,
        what: &'static str,
        ask: u16,
        answer: u16,
        payload: &Payload,
    ) -> Result<Vec<Vec<u8>>, KernelError> {
        let (ask, answer) = (encode::kind(ask), encode::kind(answer));
        match self.socket.dump(ask, answer, payload.as_bytes()) {
            // It went between two questions: the generation tells.
            Err(error) if error.is(Errno::NOENT) => Ok(Vec::new()),
            other => other.map_err(|error| self.cannot(what, error)),
        }
    }

    fn cannot(&self, what: &'static str, source: Error) -> KernelError {
        KernelError::Read { what, table: self.instance.table(), source }
    }
}

/// The same in memory as the kernel has just done.
fn remember(known: &mut Observed, stale: &mut Vec<(Family, String)>, family: Family, step: &Step) {
    if *step == Step::DeleteTable {
        known.tables.remove(&family);
        stale.retain(|(of, _)| *of != family);
        return;
    }
    let table = known.tables.entry(family).or_default();
    let mut touched = |chain: &String| {
        let entry = (family, chain.clone());
        if !stale.contains(&entry) {
            stale.push(entry);
        }
    };
    match step {
        Step::DeleteTable | Step::AddTable => {}
        Step::AddSet { set, shape } => {
            table.sets.entry(set.clone()).or_default().shape = Some(shape.clone());
        }
        Step::DeleteSet { set } => drop(table.sets.remove(set)),
        Step::AddElements { set, elements, .. } => {
            let observed = table.sets.entry(set.clone()).or_default();
            observed.elements.extend(elements.iter().cloned());
        }
        Step::DeleteElements { set, elements, .. } => {
            if let Some(observed) = table.sets.get_mut(set) {
                for (key, _) in elements {
                    observed.elements.remove(key);
                }
            }
        }
        Step::AddChain { chain, hook } => {
            table.chains.entry(chain.clone()).or_default().hook = hook.map(Ok::<_, ()>);
        }
        Step::DeleteChain { chain } => {
            table.chains.remove(chain);
            stale.retain(|(of, name)| *of != family || name != chain);
        }
        Step::AddRule { chain, .. } | Step::DeleteRule { chain, .. } => touched(chain),
    }
}
