use std::sync::atomic::AtomicBool;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::*;

const LIMIT: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);

/// An end whose library is a pair of switches.
struct Fake {
    journal: Journal,
    error: Mutex<Option<String>>,
    is_aborted: AtomicBool,
    /// An abort waits for a message here, if there is one.
    hangs_on: Option<Receiver<()>>,
}

impl Abortable for Fake {
    fn journal(&self) -> &Journal {
        &self.journal
    }

    fn poll(&self) -> Option<String> {
        self.error.lock().expect("no panic").clone()
    }

    fn abort(&self) {
        if let Some(release) = &self.hangs_on {
            let _ = release.recv();
        }
        self.is_aborted.store(true, Ordering::SeqCst);
    }
}

fn fake(rank: usize, hangs_on: Option<Receiver<()>>) -> Arc<Fake> {
    let member = Member { rank, axis: "data", group: 0 };
    Arc::new(Fake {
        journal: Journal::new(member, Arc::new(AtomicU64::new(7))),
        error: Mutex::default(),
        is_aborted: AtomicBool::new(false),
        hangs_on,
    })
}

/// A watchdog and the ends of three ranks.
fn three() -> (Watchdog, [Arc<Fake>; 3]) {
    let (watchdog, ends) = (Watchdog::new(LIMIT), [0, 1, 2].map(|rank| fake(rank, None)));
    ends.iter().for_each(|end| watchdog.watch(end.clone()));
    (watchdog, ends)
}

/// Ticks a second at a time until something is found; how many ticks passed before it.
fn ticks_until_stuck(watchdog: &Watchdog) -> (u32, Stuck) {
    (0..1000).find_map(|i| Some((i, watchdog.tick(SECOND)?))).expect("found in a thousand seconds")
}

#[test]
fn operations_that_end_in_time_are_never_in_trouble() {
    let (watchdog, ends) = three();
    for _ in 0..100 {
        let numbers: Vec<_> = ends.iter().map(|end| end.journal.begin("all-reduce", 64)).collect();
        assert_eq!(watchdog.tick(LIMIT / 2), None);
        ends.iter().zip(numbers).for_each(|(end, number)| end.journal.end(number));
        // Idle time is nobody's.
        assert_eq!(watchdog.tick(10 * LIMIT), None);
    }
}

#[test]
fn a_rank_that_has_not_even_joined_its_group_is_named() {
    let watchdog = Watchdog::new(LIMIT);
    let ends = [0, 1].map(|rank| fake(rank, None));
    watchdog.expect(ends.iter().map(|end| end.journal.member));
    watchdog.watch(ends[0].clone());
    ends[0].journal.begin("all-reduce", 8);
    let Why::Late { missing, .. } = ticks_until_stuck(&watchdog).1.why else {
        panic!("it is late")
    };
    assert_eq!(missing, [1]);
}

#[test]
fn a_late_operation_is_named_with_the_ranks_that_have_not_begun_it() {
    let (watchdog, ends) = three();
    for end in &ends {
        let number = end.journal.begin("broadcast", 8);
        end.journal.end(number);
    }
    ends[0].journal.begin("all-reduce", 4096);
    ends[2].journal.begin("all-reduce", 4096);
    let (ticks, stuck) = ticks_until_stuck(&watchdog);
    assert_eq!(ticks, 10);
    assert_eq!(stuck.member.rank, 0);
    assert_eq!(
        stuck.to_string(),
        "all-reduce of 4096 bytes (step 7, operation 1, data axis) has not ended within 10 s: rank 1 \
         has not begun it; if it only needs longer, raise devices.collective_timeout_s"
    );
}

#[test]
fn an_operation_s_time_begins_when_those_before_it_have_ended() {
    let (watchdog, ends) = three();
    let journal = &ends[1].journal;
    let first = journal.begin("reduce-scatter", 8);
    journal.begin("all-gather", 8);
    assert_eq!(watchdog.tick(SECOND), None);
    assert_eq!(watchdog.tick(LIMIT - SECOND), None);
    journal.end(first);
    let (ticks, stuck) = ticks_until_stuck(&watchdog);
    assert_eq!((ticks, stuck.operation.name), (10, "all-gather"));
}

#[test]
fn an_error_the_library_reports_is_trouble_at_once() {
    let (watchdog, ends) = three();
    ends[2].journal.begin("all-gather", 16);
    *ends[2].error.lock().expect("no panic") = Some("the network is down".to_owned());
    assert_eq!(watchdog.tick(SECOND), None, "nobody has asked the library");
    watchdog.poll();
    let stuck = watchdog.tick(Duration::ZERO).expect("reported");
    assert_eq!((stuck.member.rank, stuck.operation.name), (2, "all-gather"));
    assert!(stuck.to_string().ends_with("failed: the network is down"), "{stuck}");
}

#[test]
fn time_passes_while_a_library_does_not_answer() {
    let (watchdog, ends) = three();
    ends[0].journal.begin("all-reduce", 16);
    let library = ends[1].error.lock().expect("no panic");
    std::thread::scope(|scope| {
        scope.spawn(|| watchdog.poll());
        let (ticks, stuck) = ticks_until_stuck(&watchdog);
        assert_eq!((ticks, stuck.member.rank), (10, 0));
        drop(library);
    });
}

#[test]
fn all_ends_are_aborted_even_if_one_abort_hangs() {
    let (release, hang): (Sender<()>, Receiver<()>) = unbounded();
    let (hanging, quick) = (fake(0, Some(hang)), fake(1, None));
    let watchdog = Watchdog::new(LIMIT);
    watchdog.watch(hanging.clone());
    watchdog.watch(quick.clone());
    // Returns although the first abort never does.
    assert_eq!(watchdog.abort_all(Duration::from_millis(1)), Aborts::Hang);
    while !quick.is_aborted.load(Ordering::SeqCst) {
        std::thread::yield_now();
    }
    assert!(!hanging.is_aborted.load(Ordering::SeqCst));
    drop(release);
    assert_eq!(watchdog.abort_all(Duration::MAX), Aborts::Done);
    assert!(hanging.is_aborted.load(Ordering::SeqCst));
}

#[test]
fn an_end_that_comes_after_the_others_were_aborted_is_aborted_at_once() {
    let (watchdog, _ends) = three();
    let early = fake(3, None);
    watchdog.watch(early.clone());
    assert!(!early.is_aborted.load(Ordering::SeqCst));
    watchdog.abort_all(Duration::MAX);
    let late = fake(4, None);
    watchdog.watch(late.clone());
    assert!(late.is_aborted.load(Ordering::SeqCst));
}
