//! Bugs to plant: each is a known bug of similar programs, and shows that the simulator would have found it.
//!
//! Knows: how to make a correct relay behave like a wrong one, by changing its events and the results of its
//! calls.
//! Never: how the simulator finds out.

use std::io::{self, ErrorKind};

use balance::handover::connection::{FlowStageRecord, RelayRecord};
use balance::wire::relay::{Ending, Input, Kernel, Output, Ready, Side, Verdict};

use super::kernel::{Pipe, VirtualKernel};
use super::world::World;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bug {
    /// Nothing.
    None,
    /// The end is passed on while data is still held (HAProxy #3457).
    EndOvertakesData,
    /// A reset is passed on while delivered data is still in the kernel's buffer (Envoy #45267).
    ResetAtOnce,
    /// A reset hides the data that arrived before it.
    ResetHidesData,
    /// The event of a side's end is lost, so a half-closed connection never ends (tokio #3876).
    DeafToEnds,
    /// A half-closed connection whose other side never takes its data has no deadline (tokio #3876, HAProxy #2522).
    NoDeadline,
    /// A reset is passed on as a clean end.
    ResetBecomesEnd,
    /// Any end of one side ends both.
    FirstEndEndsAll,
    /// The event that a side takes data again is lost.
    DeafToSpace,
    /// The event of urgent data is believed, the mark is not asked for.
    MissesMark,
    /// A short write is taken for a shorter one, so bytes go twice.
    SendsTwice,
    /// A short write is taken for a whole one, so bytes are lost.
    ForgetsRest,
    /// Two neighbouring bytes change places.
    Swaps,
    /// Nothing to read is taken for an interruption.
    AsksForEver,
    /// It is queued for another turn although it sleeps.
    NeverSleeps,
    /// Pipes are not given back.
    LeaksPipes,
    /// Pipes that still hold bytes are given back as empty ones.
    GivesFullPipes,
    /// Spliced bytes are not counted.
    CountsCopiesOnly,
    /// A socket is prepared for bulk more than once.
    TellsTwice,
    /// Fewer bytes than asked for are taken for all there are.
    ShortIsDrained,
    /// Fewer bytes taken than offered are taken for no more room.
    ShortIsFull,
    /// What was kept back on the way is left there.
    NeverFlushes,
    /// What could not be sent on when it was asked for is forgotten.
    FlushesOnce,
    /// A session that somebody looks at is spliced.
    SplicesUnseen,
    /// A side that lives, and misses bytes since a call for it failed, gets a clean end.
    SparesAiling,
    /// What there was no memory for is not asked for again.
    ForgetsShortage,
    /// A deadline ends a connection cleanly though bytes for one side wait unread.
    AbandonsUnread,
    /// Every refusal is taken for a full buffer.
    BelievesRefusals,
    /// What one direction holds does not go to the other process.
    CarriesNoBytes,
    /// Which of it is a header of ours does not.
    CarriesNoLead,
    /// A header of ours goes out without looking for the client's first bytes.
    LeadsAlone,
    /// An urgent byte that is held does not, nor that one was announced.
    CarriesNoUrgent,
    /// That a side has ended does not, so that its end is taken for what may still come.
    CarriesNoEnd,
    /// That a side is gone does not.
    CarriesNoLoss,
    /// The other process does not hear of what is there already.
    HearsOnlyNews,
}

/// Every bug there is.
pub(super) const BUGS: &[Bug] = &[
    Bug::EndOvertakesData,
    Bug::ResetAtOnce,
    Bug::ResetHidesData,
    Bug::DeafToEnds,
    Bug::NoDeadline,
    Bug::ResetBecomesEnd,
    Bug::FirstEndEndsAll,
    Bug::DeafToSpace,
    Bug::MissesMark,
    Bug::SendsTwice,
    Bug::ForgetsRest,
    Bug::Swaps,
    Bug::AsksForEver,
    Bug::NeverSleeps,
    Bug::LeaksPipes,
    Bug::GivesFullPipes,
    Bug::CountsCopiesOnly,
    Bug::TellsTwice,
    Bug::ShortIsDrained,
    Bug::ShortIsFull,
    Bug::NeverFlushes,
    Bug::FlushesOnce,
    Bug::SplicesUnseen,
    Bug::SparesAiling,
    Bug::ForgetsShortage,
    Bug::AbandonsUnread,
    Bug::BelievesRefusals,
    Bug::CarriesNoBytes,
    Bug::CarriesNoLead,
    Bug::LeadsAlone,
    Bug::CarriesNoUrgent,
    Bug::CarriesNoEnd,
    Bug::CarriesNoLoss,
    Bug::HearsOnlyNews,
];

impl Bug {
    /// What becomes of an event.
    pub(super) fn event(self, mut ready: Ready) -> Ready {
        match self {
            Self::DeafToEnds if ready.read_closed && !ready.error => Ready::default(),
            Self::DeafToSpace => {
                ready.writable = false;
                ready
            }
            _ => ready,
        }
    }

    /// What becomes of a relay on its way to another process.
    pub(super) fn carry(self, record: &mut RelayRecord, bytes: &mut Vec<u8>) {
        match self {
            Self::CarriesNoBytes => {
                bytes.clear();
                record.flows.iter_mut().for_each(|flow| (flow.held, flow.lead) = (0, 0));
            }
            Self::CarriesNoLead => record.flows[0].lead = 0,
            Self::CarriesNoUrgent => {
                record.flows.iter_mut().for_each(|flow| flow.urgent = None);
                record.marked = [false; 2];
            }
            Self::CarriesNoEnd => {
                record.half_closed = false;
                record.closed = [false; 2];
                for flow in &mut record.flows {
                    if matches!(flow.stage, FlowStageRecord::Draining | FlowStageRecord::Ended) {
                        flow.stage = FlowStageRecord::Open;
                    }
                }
            }
            Self::CarriesNoLoss => {
                record.gone = [false; 2];
                for flow in &mut record.flows {
                    if flow.stage == FlowStageRecord::Dropped {
                        flow.stage = FlowStageRecord::Ended;
                    }
                }
            }
            _ => {}
        }
    }

    /// What becomes of a verdict.
    pub(super) fn verdict(self, verdict: Verdict, world: &World) -> Verdict {
        let resets = world.sockets.iter().filter(|socket| socket.reset).count();
        let clean = Ending { reset_client: false, reset_server: false };
        match (self, verdict) {
            (Self::ResetAtOnce, Verdict::Later) if resets == 1 => Verdict::Done(Ending {
                reset_client: world.sockets[Side::Server as usize].reset,
                reset_server: world.sockets[Side::Client as usize].reset,
            }),
            (Self::ResetBecomesEnd, Verdict::Done(_)) => Verdict::Done(clean),
            (Self::FirstEndEndsAll, Verdict::Sleep) if world.sockets.iter().any(|socket| socket.shut) => {
                Verdict::Done(clean)
            }
            (Self::NeverSleeps, Verdict::Sleep) => Verdict::Again,
            (Self::ForgetsShortage, Verdict::Later) => Verdict::Sleep,
            (Self::SparesAiling, Verdict::Done(ending)) => Verdict::Done(Ending {
                reset_client: ending.reset_client && !world.ailing[Side::Client as usize],
                reset_server: ending.reset_server && !world.ailing[Side::Server as usize],
            }),
            _ => verdict,
        }
    }
}

/// The kernel as a relay with this bug would use it.
pub(super) struct Faulty<'a> {
    pub(super) inner: VirtualKernel<'a>,
    pub(super) bug: Bug,
}

impl Faulty<'_> {
    fn world(&mut self) -> &mut World {
        self.inner.0
    }
}

impl Kernel for Faulty<'_> {
    type Pipe = Pipe;

    fn read(&mut self, side: Side, buf: &mut [u8]) -> io::Result<Input> {
        let bug = self.bug;
        let is_first = self.world().lead > 0 && self.world().first_write.is_none();
        if bug == Bug::LeadsAlone && side == Side::Client && is_first {
            return Err(ErrorKind::WouldBlock.into());
        }
        let socket = &mut self.world().sockets[side as usize];
        if bug == Bug::ResetHidesData
            && let Some(error) = socket.error.take()
        {
            self.world().broken[side as usize] = true;
            return Err(error.into());
        }
        match self.inner.read(side, buf) {
            Err(e) if bug == Bug::AsksForEver && e.kind() == ErrorKind::WouldBlock => {
                Err(ErrorKind::Interrupted.into())
            }
            Ok(Input { bytes, .. }) if bug == Bug::ShortIsDrained => {
                Ok(Input { bytes, drained: bytes < buf.len() })
            }
            result => result,
        }
    }

    fn write(&mut self, side: Side, buf: &[u8]) -> io::Result<Output> {
        let mut swapped = Vec::new();
        if self.bug == Bug::Swaps && buf.len() > 40 && self.world().random.chance(10) {
            swapped.extend_from_slice(buf);
            swapped.swap(20, 21);
        }
        let written = self.inner.write(side, if swapped.is_empty() { buf } else { &swapped });
        let short = matches!(written, Ok(Output { bytes, .. }) if bytes < buf.len());
        let ended = self.world().sockets[side.peer() as usize].fin;
        match self.bug {
            Bug::EndOvertakesData if short && ended => {
                let _ = self.inner.shutdown(side, false);
                written
            }
            Bug::SendsTwice if short => written.map(|Output { bytes, full }| {
                // The counters are right all the same: the bytes themselves must show it.
                self.delivered(side, usize::from(bytes > 1));
                Output { bytes: bytes.max(2) - 1, full }
            }),
            Bug::ForgetsRest if short => written.map(|Output { bytes, full }| {
                let counted = &mut self.world().counted[side as usize];
                *counted = counted.wrapping_sub((buf.len() - bytes) as u64);
                Output { bytes: buf.len(), full }
            }),
            Bug::ShortIsFull => written.map(|Output { bytes, .. }| Output { bytes, full: short }),
            _ => written,
        }
    }

    fn write_last(&mut self, side: Side, buf: &[u8]) -> io::Result<Output> {
        if self.bug == Bug::None { self.inner.write_last(side, buf) } else { self.write(side, buf) }
    }

    fn flush(&mut self, side: Side) -> io::Result<()> {
        match self.bug {
            Bug::NeverFlushes => Ok(()),
            Bug::FlushesOnce => self.inner.flush(side).or(Ok(())),
            _ => self.inner.flush(side),
        }
    }

    fn shutdown(&mut self, side: Side, closes: bool) -> io::Result<()> {
        self.inner.shutdown(side, closes)
    }

    fn at_mark(&mut self, side: Side) -> io::Result<bool> {
        Ok(self.inner.at_mark(side)? && self.bug != Bug::MissesMark)
    }

    fn write_urgent(&mut self, side: Side, byte: u8) -> io::Result<()> {
        self.inner.write_urgent(side, byte)
    }

    fn error(&mut self, side: Side) -> Option<io::Error> {
        self.inner.error(side)
    }

    fn unsent(&mut self, side: Side) -> usize {
        self.inner.unsent(side)
    }

    fn unread(&mut self, side: Side) -> usize {
        if self.bug == Bug::AbandonsUnread { 0 } else { self.inner.unread(side) }
    }

    fn will_tell_of_room(&mut self, side: Side) -> bool {
        self.bug == Bug::BelievesRefusals || self.inner.will_tell_of_room(side)
    }

    fn expect_bulk(&mut self, to: Side) {
        self.inner.expect_bulk(to);
        if self.bug == Bug::TellsTwice {
            self.inner.expect_bulk(to);
        }
    }

    fn open_pipe(&mut self, expected: usize, flows: bool) -> Option<Pipe> {
        if self.bug == Bug::SplicesUnseen {
            let tapped = self.inner.0.tapped.take();
            let pipe = self.inner.open_pipe(expected, flows);
            self.inner.0.tapped = tapped;
            return pipe;
        }
        self.inner.open_pipe(expected, flows)
    }

    fn fill(&mut self, from: Side, pipe: &mut Pipe) -> io::Result<Input> {
        self.inner.fill(from, pipe)
    }

    fn drain(&mut self, pipe: &mut Pipe, to: Side, len: usize) -> io::Result<Output> {
        let drained = self.inner.drain(pipe, to, len);
        if self.bug == Bug::CountsCopiesOnly
            && let Ok(Output { bytes, .. }) = drained
        {
            // Takes back what the relay is about to count.
            let counted = &mut self.world().counted[to as usize];
            *counted = counted.wrapping_sub(bytes as u64);
        }
        drained
    }

    fn take_out(&mut self, pipe: &mut Pipe, len: usize) -> io::Result<Vec<u8>> {
        self.inner.take_out(pipe, len)
    }

    fn close_pipe(&mut self, pipe: Pipe, held: usize) {
        match self.bug {
            Bug::LeaksPipes => {}
            Bug::GivesFullPipes => self.inner.close_pipe(pipe, 0),
            _ => self.inner.close_pipe(pipe, held),
        }
    }

    fn saw(&mut self, from: Side, bytes: &[u8]) {
        self.inner.saw(from, bytes);
    }

    fn delivered(&mut self, to: Side, bytes: usize) {
        let counted = &mut self.world().counted[to as usize];
        *counted = counted.wrapping_add(bytes as u64);
    }
}
