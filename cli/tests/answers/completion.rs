//! The completion scripts, as shells run them.

use spanwire_testbed::Command;

use crate::answer;

async fn script(shell: &str) -> String {
    let words = ["completion", shell].map(str::to_owned);
    answer(&words).await.unwrap().text
}

/// What bash offers for the last of these words, by the function that the script has registered for the program.
fn offered(script: &str, words: &[&str]) -> Vec<String> {
    let [.., before, last] = words else {
        panic!("the program and a word")
    };
    let line: String = words.iter().map(|word| format!(" '{word}'")).collect();
    let script = format!(
        "{script}\nregistered=($(complete -p kubectl-spanwire))\n\
         for ((index = 0; index < ${{#registered[@]}}; index++)); do\n  \
         if [ \"${{registered[index]}}\" = -F ]; then function=${{registered[index + 1]}}; fi\ndone\n\
         COMP_WORDS=({line}) COMP_CWORD={}\n\"$function\" kubectl-spanwire '{last}' '{before}'\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"\n",
        words.len() - 1
    );
    let offered = Command::new("bash").args(["--norc", "-c", &script]).run();
    offered.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn bash_completes_commands_flags_and_values() {
    let script = script("bash").await;
    let of = |words: &[&str]| offered(&script, words);
    assert_eq!(of(&["kubectl-spanwire", "mig"]), ["migrate"]);
    let peer = of(&["kubectl-spanwire", "peer", ""]);
    for command in ["add", "list", "remove"] {
        assert!(peer.iter().any(|offered| offered == command), "{peer:?}");
    }
    assert_eq!(of(&["kubectl-spanwire", "diagnose", "--bun"]), ["--bundle"]);
    let flags = of(&["kubectl-spanwire", "peer", "add", "--p"]);
    for flag in ["--pool", "--public-key", "--preshared-key"] {
        assert!(flags.iter().any(|offered| offered == flag), "{flags:?}");
    }
    assert_eq!(of(&["kubectl-spanwire", "status", "--output", "w"]), ["wide"]);
}

#[tokio::test]
async fn every_shell_gets_a_script_for_the_name_of_the_program() {
    for (shell, says) in [
        ("bash", "-o default kubectl-spanwire"),
        ("zsh", "#compdef kubectl-spanwire"),
        ("fish", "complete -c kubectl-spanwire"),
    ] {
        let script = script(shell).await;
        assert!(
            script.contains(says) && script.contains("migrate"),
            "{shell}: {script}"
        );
    }
}
