//! A source that shows what is older than the checkpoint.

use spanwire_core::following::PATIENCE;

use super::*;

/// The same as the API server has it after so many changes of each slice.
fn changed_to(networks: u8, generation: i64) -> Snapshot {
    let mut snapshot = snapshot(networks);
    for (name, slice) in &mut snapshot.slices {
        let slice = Arc::make_mut(slice);
        (slice.metadata.uid, slice.metadata.generation) = (Some(name.clone()), Some(generation));
    }
    snapshot
}

#[tokio::test(start_paused = true)]
async fn what_is_older_than_the_checkpoint_waits_for_what_is_newer_or_for_a_minute() {
    beside(Some(changed_to(3, 7)), async |others| {
        let routes = || {
            let reached = |given: &Given| match given {
                Given::Reach(routes, _) => Some(*routes),
                Given::Survey(_) => None,
            };
            others.jobs().iter().rev().find_map(reached)
        };
        let show = |networks, generation| {
            let shown = Arc::new(changed_to(networks, generation));
            others.snapshots.send_replace(Some(shown));
        };
        let is_said = || {
            let status = others.status.borrow().clone().unwrap();
            let message = &status.conditions[0].message;
            message.contains("older LocationSlice a-head than this node follows")
        };
        let kept = || {
            Checkpoint::load(&others.state_directory)
                .unwrap()
                .unwrap()
                .snapshot
        };
        after(SECOND).await;
        let of_three = routes().unwrap();
        show(1, 6);
        after(SECOND).await;
        assert_eq!(routes(), None, "nothing changes");
        assert!(is_said());
        show(4, 8);
        after(SECOND).await;
        let of_four = routes().unwrap();
        assert!(of_four > of_three && !is_said());
        show(2, 7);
        after(PATIENCE - 2 * MILLISECOND).await;
        assert!(routes().is_none_or(|routes| routes == of_four));
        assert!(is_said());
        assert_eq!(*kept(), changed_to(4, 8));
        after(2 * CHECKPOINT_PAUSE).await;
        assert_eq!(routes(), Some(of_three - (of_four - of_three)));
        assert!(!is_said());
        assert_eq!(*kept(), changed_to(2, 7));
    })
    .await;
}
