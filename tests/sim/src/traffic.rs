//! The clients' requests on their way: to a member, through its ingress, and back.

use bytes::Bytes;
use prost::Message as _;
use synod_paxos::CommandKind;
use synod_proto::v1::{Idempotency, Request};

use crate::app::{Poison, Register, mix};
use crate::calendar::Event;
use crate::client::{Attempt, Kind, Next, Operation, Reply, key_of};
use crate::coverage::Sight;
use crate::invariants::Violation;
use crate::service::draw_poison;
use crate::swarm::Plant;
use crate::world::World;

impl World {
    /// A client begins something new.
    pub(crate) fn wake(&mut self, client: usize) {
        if self.calm {
            return;
        }
        self.next_op += 1;
        let floor = self.checks.answers.floor();
        let poison = self.draw_poison();
        self.clients[client].begin(
            self.next_op,
            floor,
            self.now_ns,
            poison,
            &self.swarm,
            &mut self.dice,
        );
        self.send(client);
        let operation = self.clients[client].operation.expect("it has just begun");
        if operation.kind == (Kind::Write { key: true }) && self.dice.chance(self.swarm.twin_share)
        {
            self.send(client);
        }
    }

    /// Now and then a request is poison.
    fn draw_poison(&mut self) -> Poison {
        let service = &self.swarm.service;
        if self.poisons >= service.poisons || self.now_ns < self.next_poison_ns {
            return Poison::None;
        }
        self.poisons += 1;
        self.next_poison_ns = self.now_ns + self.dice.gap(self.swarm.service.poison_every_ns);
        self.coverage.saw(Sight::Poisons);
        draw_poison(&mut self.dice, self.swarm.members)
    }

    /// One more attempt, through any member.
    fn send(&mut self, client: usize) {
        let operation = self.clients[client]
            .operation
            .as_mut()
            .expect("only what is open is sent");
        operation.attempts += 1;
        let attempt = Attempt {
            client,
            op: operation.work.op,
            number: operation.attempts,
        };
        let member = self.seated[self.dice.pick(self.seated.len())];
        let delay = self.dice.range(10_000, 2_000_000);
        self.plan(delay, Event::Request { attempt, member });
        self.plan(self.swarm.client_timeout_ns, Event::GiveUp { attempt });
    }

    pub(crate) fn send_reply(&mut self, attempt: Attempt, reply: Reply) {
        let delay = self.dice.range(10_000, 2_000_000);
        self.plan(delay, Event::Reply { attempt, reply });
    }

    /// A request reaches a member.
    pub(crate) fn request(&mut self, attempt: Attempt, member: usize) -> Result<(), Violation> {
        let Some(operation) = self.clients[attempt.client].operation_of(attempt.op) else {
            return Ok(());
        };
        let host = &self.hosts[member];
        if host.process.is_none() || host.witness {
            self.send_reply(attempt, Reply::NotOrdered);
            return Ok(());
        }
        match operation.kind {
            Kind::Read => self.request_read(attempt, member),
            Kind::Write { key } => self.request_write(attempt, member, operation, key),
        }
        self.settle(member)
    }

    fn request_read(&mut self, attempt: Attempt, member: usize) {
        let now = self.clock(member);
        let floor = self.checks.answers.floor();
        let process = self.hosts[member]
            .process
            .as_mut()
            .expect("the caller has looked");
        let id = process.next_read();
        process.reads.insert(id, (attempt, floor));
        process.paxos.read(now, id);
    }

    fn request_write(&mut self, attempt: Attempt, member: usize, operation: Operation, key: bool) {
        let now = self.clock(member);
        let expires_in = self.swarm.expires_ns;
        let host = &mut self.hosts[member];
        let boot = host.disk.boot();
        let process = host.process.as_mut().expect("the caller has looked");
        let agreed = process.copy.agreed_now(process.paxos.agreed_clock(), now);
        let request = request_of(operation, key, agreed.0 + expires_in);
        let command = process.command(boot, CommandKind::REQUEST, request.encode_to_vec().into());
        let id = command.id;
        match process.paxos.propose(now, command) {
            Ok(()) => {
                process.unresolved.insert(id.sequence);
                process.attempts.insert(id, attempt);
                if self.swarm.plant == Plant::EarlyAnswer {
                    let slot = process.paxos.last().next();
                    let Register { count, chain } = Register::default().append(operation.work.op);
                    let revision = 0;
                    self.send_reply(
                        attempt,
                        Reply::Wrote {
                            slot,
                            count,
                            chain,
                            revision,
                        },
                    );
                }
            }
            Err(_) => self.send_reply(attempt, Reply::NotOrdered),
        }
    }

    /// A client has waited long enough for this attempt, and leaves.
    pub(crate) fn give_up(&mut self, attempt: Attempt) -> Result<(), Violation> {
        self.reply(attempt, Reply::Unknown)
    }

    /// A reply reaches a client.
    pub(crate) fn reply(&mut self, attempt: Attempt, reply: Reply) -> Result<(), Violation> {
        let client = attempt.client;
        let Some(operation) = self.clients[client].operation_of(attempt.op) else {
            return Ok(());
        };
        self.trace.mix(mix(attempt.op, u64::from(attempt.number)));
        if !(operation.done && matches!(reply, Reply::Unknown | Reply::NotOrdered)) {
            self.trace.line(self.now_ns, || {
                format!(
                    "client {client} op {} attempt {}: {reply:?}",
                    attempt.op, attempt.number
                )
            });
        }
        // Answers that come after the first, or after the client has left, must be right as well.
        self.verify(operation, reply)?;
        match self.clients[client].next(attempt, reply) {
            Next::Nothing => {}
            Next::Retry => {
                let operation = self.clients[client].operation.as_mut().expect("it is open");
                // The number moves on at once, so that a second failure of this attempt is stale.
                let pause = if operation.attempts > 3 {
                    50_000_000
                } else {
                    1_000_000
                };
                operation.attempts += 1;
                self.plan(
                    pause,
                    Event::Again {
                        client,
                        op: attempt.op,
                    },
                );
            }
            Next::Over => {
                self.clients[client]
                    .operation
                    .as_mut()
                    .expect("it is open")
                    .done = true;
                let think = self.dice.gap(self.swarm.think_ns);
                self.plan(think, Event::Wake { client });
            }
        }
        Ok(())
    }

    /// The pause before a retry is over.
    pub(crate) fn again(&mut self, client: usize, op: u64) {
        if self.clients[client]
            .operation_of(op)
            .is_some_and(|o| !o.done)
        {
            self.send(client);
        }
    }

    fn verify(&mut self, operation: Operation, reply: Reply) -> Result<(), Violation> {
        let (op, floor) = (operation.work.op, operation.floor);
        match reply {
            Reply::Wrote {
                slot,
                count,
                chain,
                revision,
            } => {
                self.learn_revisions();
                self.checks.revisions.told(slot, revision)?;
                self.checks
                    .wrote(op, floor, slot, Register { count, chain })
            }
            Reply::Astray { slot } => self.checks.wrote_astray(op, slot),
            Reply::Read {
                reflects,
                count,
                chain,
            } => {
                let value = Register { count, chain };
                self.checks
                    .answers
                    .read(operation.work.register, floor, reflects, value)
            }
            Reply::Gone { slot } => self.checks.gone(op, slot),
            Reply::Skipped { slot } => self.checks.told_skipped(op, slot),
            Reply::NotOrdered | Reply::Unknown => Ok(()),
        }
    }
}

/// The request as an entrance captures it.
fn request_of(operation: Operation, key: bool, expires_ns: u64) -> Request {
    let work = operation.work;
    Request {
        policy_version: 1,
        expires_ns,
        method: "POST".to_owned(),
        target: format!("/{}", work.register),
        body: work.encode(operation.bytes),
        idempotency: key.then(|| Idempotency {
            key: key_of(work.op),
            principal: Bytes::from_static(b"everybody"),
            request_digest: Bytes::copy_from_slice(&mix(work.op, work.register).to_le_bytes()),
        }),
        ..Request::default()
    }
}
