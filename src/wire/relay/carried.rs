//! A relay as it goes from one process to another: everything it holds, and what it knows that the kernel
//! does not.
//!
//! Knows: what a record of a relay means, which records are impossible. Never: the sockets, how a record
//! travels.
//!
//! The record leaves out what the kernel reports again to a process that begins to watch a socket: that it is
//! readable, that it has an error. Bytes in pipes are read out, since a pipe would add two descriptors to the
//! message. What only affects speed (the pace, splicing) starts anew.

use std::io::{self, ErrorKind};

use super::{FirstEnd, Flow, FlowStage, Held, Kernel, Ready, Relay, Side};
use crate::handover::connection::{FlowRecord, FlowStageRecord, RelayRecord};

impl From<FlowStage> for FlowStageRecord {
    fn from(stage: FlowStage) -> Self {
        match stage {
            FlowStage::Open => Self::Open,
            FlowStage::Draining => Self::Draining,
            FlowStage::Ended => Self::Ended,
            FlowStage::Dropped => Self::Dropped,
        }
    }
}

impl From<FlowStageRecord> for FlowStage {
    fn from(stage: FlowStageRecord) -> Self {
        match stage {
            FlowStageRecord::Open => Self::Open,
            FlowStageRecord::Draining => Self::Draining,
            FlowStageRecord::Ended => Self::Ended,
            FlowStageRecord::Dropped => Self::Dropped,
        }
    }
}

fn wrong<T>(why: &str) -> io::Result<T> {
    Err(io::Error::new(ErrorKind::InvalidData, format!("a connection makes no sense: {why}")))
}

impl<P> Relay<P> {
    /// Packs everything held and known for [`Relay::unpack`]; in the bytes, those from the client come first.
    /// Afterwards the relay holds nothing, and its pipes are given back.
    ///
    /// # Errors
    /// A pipe cannot be read, or there is no memory for its content. Nothing is lost then, and the relay can
    /// go on.
    pub fn pack<K: Kernel<Pipe = P>>(&mut self, kernel: &mut K) -> io::Result<(RelayRecord, Vec<u8>)> {
        for flow in &mut self.flows {
            let Held::Pipe { pipe, len } = &mut flow.held else { continue };
            let len = *len as usize;
            let bytes = if len > 0 { kernel.take_out(pipe, len)? } else { Vec::new() };
            debug_assert_eq!(bytes.len(), len, "all of it or nothing");
            let held =
                if bytes.is_empty() { Held::Nothing } else { Held::bytes(bytes.into_boxed_slice(), 0) };
            if let Held::Pipe { pipe, .. } = std::mem::replace(&mut flow.held, held) {
                kernel.close_pipe(pipe, 0);
            }
        }
        let mut all = Vec::new();
        let flows = self.flows.each_mut().map(|flow| {
            let (held, lead) = flow.held.count();
            if let Held::Bytes { bytes, at, .. } = std::mem::replace(&mut flow.held, Held::Nothing) {
                all.extend_from_slice(bytes.get(at as usize..).unwrap_or_default());
            }
            FlowRecord {
                stage: flow.stage.into(),
                held,
                lead,
                urgent: flow.urgent.take(),
                untold: flow.untold,
                unflushed: flow.unflushed,
                is_bulk: flow.is_bulk,
            }
        });
        let record = RelayRecord {
            flows,
            gone: self.gone,
            closed: self.ready.map(|ready| ready.read_closed),
            marked: self.ready.map(|ready| ready.urgent),
            half_closed: self.half_closed,
            first_end: self.first_end().map(|(side, gone)| (side as u8, gone)),
        };
        Ok((record, all))
    }

    /// A relay that continues a packed one. Its sockets must be watched anew: the relay knows nothing about
    /// them except what the kernel does not report again.
    ///
    /// # Errors
    /// `InvalidData`: the record describes an impossible relay, or bytes are missing.
    pub fn unpack(record: &RelayRecord, bytes: &[u8]) -> io::Result<Self> {
        let first_end = match record.first_end {
            None => None,
            Some((0, gone)) => Some((Side::Client, gone)),
            Some((1, gone)) => Some((Side::Server, gone)),
            Some(_) => return wrong("a third side ended first"),
        };
        let first_end = FirstEnd::of(first_end);
        let mut relay = Self { gone: record.gone, half_closed: record.half_closed, first_end, ..Self::new() };
        let mut rest = bytes;
        for side in [Side::Client, Side::Server] {
            let (number, flow) = (side as usize, &record.flows[side as usize]);
            let Some((held, behind)) = rest.split_at_checked(flow.held) else {
                return wrong("bytes are missing");
            };
            rest = behind;
            relay.flows[number] = Flow::unpack(flow, held)?;
            if (flow.stage == FlowStageRecord::Dropped) != record.gone[side.peer() as usize] {
                return wrong("a side is gone and is to get bytes");
            }
            let is_closed = record.closed[number] || record.gone[number];
            relay.ready[number] = Ready {
                writable: true,
                readable: is_closed,
                read_closed: is_closed,
                urgent: record.marked[number],
                error: false,
            };
        }
        if !rest.is_empty() {
            return wrong("bytes are left over");
        }
        Ok(relay)
    }
}

impl<P> Flow<P> {
    fn unpack(record: &FlowRecord, held: &[u8]) -> io::Result<Self> {
        let flow = Self {
            held: if held.is_empty() { Held::Nothing } else { Held::bytes(held.into(), record.lead) },
            urgent: record.urgent,
            untold: record.untold,
            unflushed: record.unflushed,
            stage: record.stage.into(),
            is_bulk: record.is_bulk,
            is_mark_near: true,
            ..Self::new()
        };
        if u32::try_from(held.len()).is_err() {
            return wrong("it holds too much");
        }
        if record.lead > held.len() || u16::try_from(record.lead).is_err() {
            return wrong("it holds less than what goes in front");
        }
        match flow.stage {
            FlowStage::Ended | FlowStage::Dropped if flow.holds_data() => {
                wrong("bytes wait behind the end of their direction")
            }
            _ => Ok(flow),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(stage: FlowStageRecord, held: usize) -> FlowRecord {
        FlowRecord { stage, held, ..FlowRecord::default() }
    }

    #[test]
    fn what_no_relay_ever_was_is_refused() {
        use FlowStageRecord::{Draining, Dropped, Ended, Open};
        let unpack = |record: &RelayRecord, bytes: &[u8]| Relay::<()>::unpack(record, bytes).map(|_| ());
        let of = |flows: [FlowRecord; 2], gone| RelayRecord { flows, gone, ..RelayRecord::default() };
        for (record, bytes) in [
            (of([flow(Open, 3), flow(Open, 0)], [false; 2]), &b"ab"[..]),
            (of([flow(Open, 1), flow(Open, 0)], [false; 2]), b"ab"),
            (of([flow(Open, usize::MAX), flow(Open, 1)], [false; 2]), b"ab"),
            (of([flow(Ended, 1), flow(Open, 1)], [false; 2]), b"ab"),
            (of([flow(Dropped, 2), flow(Open, 0)], [false, true]), b"ab"),
            (of([flow(Dropped, 0), flow(Open, 2)], [false; 2]), b"ab"),
            (of([flow(Open, 2), flow(Open, 0)], [true, false]), b"ab"),
            (of([FlowRecord { urgent: Some(1), ..flow(Ended, 0) }, flow(Open, 0)], [false; 2]), b""),
            (of([FlowRecord { lead: 3, ..flow(Open, 2) }, flow(Open, 0)], [false; 2]), b"ab"),
            (RelayRecord { first_end: Some((2, false)), ..RelayRecord::default() }, b""),
        ] {
            let error = unpack(&record, bytes).expect_err(&format!("{record:?}"));
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{record:?}");
        }
        let whole = of([flow(Draining, 2), flow(Open, 1)], [false; 2]);
        assert!(unpack(&whole, b"abc").is_ok());
        assert!(unpack(&RelayRecord::default(), b"").is_ok());
    }
}
