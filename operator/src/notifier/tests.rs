use super::*;

fn notice(name: &str, field: &str, note: &str) -> Notice {
    Notice {
        api_version: "v1",
        kind: "Node",
        name: name.to_owned(),
        uid: "uid".to_owned(),
        reason: "InvalidField",
        field: field.to_owned(),
        note: note.to_owned(),
    }
}

/// Writes what may be written now.
fn written(notifier: &mut Notifier, now: Instant) -> Vec<String> {
    let mut notes = Vec::new();
    while let Some(notice) = notifier.poll_notice(now) {
        notifier.handle_outcome(&notice, Outcome::Done, now);
        notes.push(notice.note);
    }
    notes
}

#[test]
fn what_is_wrong_is_written_once_and_again_when_it_changes_or_comes_back() {
    let now = Instant::now();
    let mut notifier = Notifier::default();
    for _ in 0..3 {
        notifier.handle_notices(vec![notice("a", "x", "1"), notice("a", "y", "1")]);
    }
    assert_eq!(written(&mut notifier, now).len(), 2);
    notifier.handle_notices(vec![notice("a", "x", "2"), notice("a", "y", "1")]);
    assert_eq!(written(&mut notifier, now), ["2"]);
    notifier.handle_notices(Vec::new());
    notifier.handle_notices(vec![notice("a", "y", "1")]);
    assert_eq!(written(&mut notifier, now), ["1"]);
}

#[test]
fn what_was_mended_before_its_turn_is_not_written_and_of_a_field_the_newest_is() {
    let now = Instant::now();
    let mut notifier = Notifier::default();
    notifier.handle_notices(vec![notice("a", "x", "1"), notice("b", "x", "1")]);
    notifier.handle_notices(vec![notice("b", "x", "2")]);
    notifier.handle_notices(vec![notice("b", "x", "3")]);
    assert_eq!(written(&mut notifier, now), ["3"]);
}

#[test]
fn one_object_that_changes_all_the_time_is_written_about_now_and_then_and_delays_no_other() {
    let start = Instant::now();
    let mut notifier = Notifier::default();
    let mut notes = 0;
    for second in 0..600 {
        let now = start + Duration::from_secs(second);
        notifier.handle_notices(vec![notice("a", "x", &second.to_string())]);
        notes += written(&mut notifier, now).len();
    }
    assert!((28..=31).contains(&notes), "{notes} in ten minutes");
    let now = start + Duration::from_secs(600);
    notifier.handle_notices(vec![notice("a", "x", "again"), notice("b", "x", "b")]);
    assert!(written(&mut notifier, now).contains(&"b".to_owned()));
}

#[test]
fn all_together_have_a_budget_and_the_rest_follows_in_time() {
    let mut now = Instant::now();
    let mut notifier = Notifier::default();
    let all: Vec<Notice> = (0..1000)
        .map(|node| notice(&format!("n{node}"), "x", "1"))
        .collect();
    notifier.handle_notices(all);
    let mut notes = written(&mut notifier, now).len();
    assert_eq!(notes, ALL.burst as usize);
    let mut rounds = 0;
    while let Some(due) = notifier.poll_timeout(now) {
        assert!(due > now, "it would be polled in circles");
        now = due;
        notes += written(&mut notifier, now).len();
        rounds += 1;
    }
    assert_eq!(notes, 1000);
    assert!(rounds > 900, "{rounds}");
}

#[test]
fn an_event_that_is_refused_is_let_be_and_one_without_an_answer_is_tried_again_later() {
    let now = Instant::now();
    let mut notifier = Notifier::default();
    notifier.handle_notices(vec![notice("a", "x", "1"), notice("b", "x", "2")]);
    let first = notifier.poll_notice(now).unwrap();
    notifier.handle_outcome(&first, Outcome::Refused, now);
    let second = notifier.poll_notice(now).unwrap();
    notifier.handle_outcome(&second, Outcome::Unanswered, now);
    assert_eq!(notifier.poll_notice(now), None);
    let later = notifier.poll_timeout(now).unwrap();
    assert_eq!(later, now + PAUSE.0);
    assert_eq!(written(&mut notifier, later), ["2"]);
    assert_eq!(notifier.poll_timeout(later), None);
}
