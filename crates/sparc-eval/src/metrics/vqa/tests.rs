//! Expected scores and normal forms are what the official evaluation program gave, in Python 3.

use proptest::prelude::*;

use super::*;

fn question(answer: &str, human_answers: &[&str]) -> VqaQuestion {
    VqaQuestion {
        id: "q1".to_owned(),
        answer: Some(answer.to_owned()),
        human_answers: human_answers.iter().map(|answer| (*answer).to_owned()).collect(),
    }
}

fn score(answer: &str, human_answers: &[&str]) -> f64 {
    vqa_accuracy(&[question(answer, human_answers)]).unwrap().overall
}

#[test]
fn normalized_as_by_the_official_program() {
    for (answer, normal) in [
        ("The Dog.", "dog"),
        ("a man, and a woman", "man and woman"),
        ("man/woman", "man woman"),
        ("man /woman", "man woman"),
        ("t-shirt", "t shirt"),
        ("t- shirt", "t shirt"),
        ("1,000", "1000"),
        ("1,000/2", "10002"),
        ("2.5 ft.", "2.5 ft"),
        (".5", ".5"),
        ("it's 10:30", "it's 10:30"),
        ("dont know", "don't know"),
        ("DONT", "don't"),
        ("couldnt've couldn'tve couldntve", "couldn't've couldn't've couldntve"),
        ("Im somebody'd lets", "im somebodyd lets"),
        ("None of ten", "0 of 10"),
        ("  yes\tno\n", "yes no"),
        ("the a an", ""),
        ("", ""),
        ("?!", ""),
        ("garbage_bin", "garbage bin"),
        ("\u{c9}t\u{c9}", "\u{e9}t\u{e9}"),
    ] {
        assert_eq!(normalize_answer(answer), normal, "{answer:?}");
    }
}

#[test]
fn leave_one_out() {
    // 3 of 10 agree: the 3 see 2 others, the 7 see 3. (3 · 2/3 + 7 · 1) / 10.
    let three = ["x", "x", "x", "b", "c", "d", "e", "f", "g", "h"];
    assert!((score("x", &three) - 0.9).abs() < 1e-12);
    assert!((score("b", &three) - 9.0 / 3.0 / 10.0).abs() < 1e-12);
    assert_eq!(score("z", &three), 0.0);
    assert_eq!(score("x", &["x", "X.", "the x", "x!", "y", "y", "y", "y", "y", "y"]), 1.0);
}

#[test]
fn unanimous_answers_are_taken_as_written() {
    let unanimous = ["the dog"; 10];
    assert_eq!(score(" the dog\n", &unanimous), 1.0);
    assert_eq!(score("dog", &unanimous), 0.0);
    assert_eq!(score("The dog", &unanimous), 0.0);
}

#[test]
fn errors_name_the_question() {
    let mut asked = question("x", &["x"; 3]);
    let error = vqa_accuracy(&[asked.clone()]).unwrap_err();
    assert_eq!(error.to_string(), "question `q1` has 3 answers by people, but accuracy needs at least 4");
    asked.answer = None;
    assert_eq!(vqa_accuracy(&[asked]).unwrap_err(), VqaError::MissingAnswer { id: "q1".into() });
    assert_eq!(vqa_accuracy(&[]).unwrap_err(), VqaError::NoQuestions);
}

proptest! {
    #[test]
    fn any_text_is_normalized_without_panic(answer in "\\PC{0,30}") {
        let normal = normalize_answer(&answer);
        prop_assert!(!normal.contains("  "));
    }

    #[test]
    fn order_of_people_changes_nothing(answers in proptest::collection::vec("[a-d]", 4..12), turn in 0usize..12) {
        let before = vqa_accuracy(&[VqaQuestion { id: String::new(), answer: Some("a".into()), human_answers: answers.clone() }]);
        let mut answers = answers;
        let turn = turn % answers.len();
        answers.rotate_left(turn);
        let after = vqa_accuracy(&[VqaQuestion { id: String::new(), answer: Some("a".into()), human_answers: answers }]);
        prop_assert!((before.unwrap().overall - after.unwrap().overall).abs() < 1e-12);
    }

    #[test]
    fn another_who_agrees_never_lowers_it(n_equal in 0usize..10) {
        let answers = |n: usize| (0..10).map(|index| if index < n { "x".to_owned() } else { format!("y{index}") }).collect();
        let accuracy = |n: usize| {
            vqa_accuracy(&[VqaQuestion { id: String::new(), answer: Some("x".into()), human_answers: answers(n) }]).unwrap().overall
        };
        prop_assert!(accuracy(n_equal) <= accuracy(n_equal + 1) + 1e-12);
    }
}
