//! Past events, in the form in which they go from process to process.
//!
//! Knows: which service an event is of, on both sides. Never: how many are kept, how they are shown.

use crate::handover::message::EventRecord;
use crate::observe::{EVENTS_KEPT, Log, Owner, PastEvent};

/// All events that the log of the process remembers. `services`: the owner of each offered service.
pub(super) fn records(log: &Log, services: &[Option<Owner>]) -> Vec<EventRecord> {
    let number = |owner| match owner {
        Owner::PROCESS => None,
        owner => Some(services.iter().position(|one| *one == Some(owner)).unwrap_or(services.len())),
    };
    let record = |event: PastEvent| EventRecord {
        at: event.millis(),
        level: event.severity.name().to_owned(),
        service: number(event.owner),
        line: event.line.to_string(),
    };
    log.events(EVENTS_KEPT).into_iter().map(record).collect()
}

/// The same on the receiving side, with the owners of the services there. Records that are not events are
/// left out.
pub(super) fn events(records: &[EventRecord], services: &[Owner]) -> Vec<PastEvent> {
    let gone = Owner::new_service();
    let owner = |number| services.get(number).copied().unwrap_or(gone);
    let event = |record: &EventRecord| {
        let owner = record.service.map_or(Owner::PROCESS, owner);
        PastEvent::of_parts(record.at, &record.level, owner, &record.line)
    };
    records.iter().filter_map(event).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Event;

    #[test]
    fn events_come_over_with_whose_they_are() {
        let log = Log::syslog(false);
        let [web, mail, gone] = [(); 3].map(|()| Owner::new_service());
        for owner in [Owner::PROCESS, web, gone, mail] {
            log.of_service(owner, Some("s")).tell(&Event::MaxConnections { limit: 7 });
        }
        let records = records(&log, &[None, Some(mail), Some(web)]);
        let numbers: Vec<_> = records.iter().map(|record| record.service).collect();
        assert_eq!(numbers, [None, Some(2), Some(3), Some(1)]);

        let next = Log::syslog(false);
        let [other, mail, web] = [(); 3].map(|()| Owner::new_service());
        let inherited = events(&records, &[other, mail, web]);
        next.inherit(inherited);
        let count = |owner| next.of_service(owner, None).events(EVENTS_KEPT).len();
        assert_eq!([other, mail, web].map(count), [1, 2, 2], "its own and the process's");
        let lines = |log: &Log| -> Vec<_> {
            log.events(EVENTS_KEPT).into_iter().map(|event| (event.millis(), event.line)).collect()
        };
        assert_eq!(lines(&next), lines(&log));
    }
}
