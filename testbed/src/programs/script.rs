//! Reads shell scripts for the programs that they start, as far as that can be seen without running them: names that a
//! script computes, text of here-documents and code in quotes are not looked at.

use std::{collections::BTreeSet, iter::Peekable, str::Chars};

/// What a shell does by itself.
const BUILTINS: [&str; 43] = [
    ".", ":", "[", "[[", "break", "builtin", "cd", "command", "continue", "declare", "echo", "eval", "exec",
    "exit", "export", "false", "fc", "getopts", "hash", "jobs", "kill", "let", "local", "mapfile", "printf",
    "pwd", "read", "readonly", "return", "set", "shift", "shopt", "source", "test", "times", "trap", "true",
    "type", "ulimit", "umask", "unset", "wait", "]]",
];

/// Words after which another command begins.
const KEYWORDS: [&str; 10] = [
    "if", "then", "else", "elif", "while", "until", "do", "!", "{", "time",
];

/// Programs and builtins that take a command, after options and, some of them, one operand.
const PREFIXES: [&str; 13] = [
    "command", "env", "exec", "flock", "nice", "nsenter", "setpriv", "setsid", "sudo", "taskset", "timeout",
    "unshare", "xargs",
];

/// What a script starts and what it defines.
#[derive(Debug, Default)]
pub struct Script {
    /// Names at the places of commands, with the line.
    pub commands: Vec<(usize, String)>,
    /// Functions that it defines.
    pub functions: BTreeSet<String>,
}

/// Reads a script.
#[must_use]
pub fn read(text: &str) -> Script {
    let mut reader = Reader {
        rest: text.chars().peekable(),
        line: 1,
        delimiters: Vec::new(),
        found: Script::default(),
    };
    reader.commands(None);
    let Script { commands, functions } = reader.found;
    Script {
        commands: commands
            .into_iter()
            .filter(|(_, name)| !BUILTINS.contains(&name.as_str()))
            .collect(),
        functions,
    }
}

/// Where in a command the reader is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    /// The next word is a command.
    Command,
    /// The next word that is no option is a command.
    Prefixed,
    /// The next word is an argument.
    Argument,
    /// The next word is the name of a file.
    Redirection { command: bool },
    /// In `case WORD in`, before `in`.
    Case,
    /// In the pattern of a case.
    Pattern,
}

struct Reader<'a> {
    rest: Peekable<Chars<'a>>,
    line: usize,
    /// The ends of the here-documents that begin on the next line.
    delimiters: Vec<String>,
    found: Script,
}

impl Reader<'_> {
    /// Reads commands up to the closing character, or to the end.
    fn commands(&mut self, end: Option<char>) {
        let mut at = At::Command;
        while let Some(&next) = self.rest.peek() {
            if Some(next) == end && at != At::Pattern {
                self.next();
                return;
            }
            at = match next {
                '\n' => {
                    self.next();
                    self.skip_documents();
                    if matches!(at, At::Pattern | At::Case) {
                        at
                    } else {
                        At::Command
                    }
                }
                ' ' | '\t' => {
                    self.next();
                    at
                }
                '#' => {
                    while self.rest.peek().is_some_and(|c| *c != '\n') {
                        self.next();
                    }
                    at
                }
                ';' | '&' | '|' => self.separator(at),
                '(' if at == At::Pattern => {
                    self.next();
                    at
                }
                '(' => {
                    self.next();
                    if self.rest.peek() == Some(&'(') {
                        self.skip_arithmetic();
                    } else {
                        self.commands(Some(')'));
                    }
                    At::Argument
                }
                ')' => {
                    self.next();
                    At::Command
                }
                '<' | '>' => self.redirection(at),
                _ => self.word(at),
            };
        }
    }

    fn next(&mut self) -> Option<char> {
        let next = self.rest.next();
        self.line += usize::from(next == Some('\n'));
        next
    }

    fn separator(&mut self, at: At) -> At {
        let first = self.next();
        let second = self.rest.peek().copied();
        if first == Some('&') && second == Some('>') {
            return at;
        }
        if first == second {
            self.next();
        }
        match at {
            At::Pattern => At::Pattern,
            _ if first == Some(';') && second == Some(';') => At::Pattern,
            At::Command | At::Prefixed | At::Argument | At::Redirection { .. } | At::Case => At::Command,
        }
    }

    fn redirection(&mut self, at: At) -> At {
        let first = self.next();
        let document = first == Some('<') && self.rest.peek() == Some(&'<');
        if document {
            self.next();
            if self.rest.peek() == Some(&'<') {
                self.next();
            } else {
                if self.rest.peek() == Some(&'-') {
                    self.next();
                }
                let mut delimiter = String::new();
                while let Some(next) = self
                    .rest
                    .next_if(|c| !c.is_whitespace() && !";&|()<>".contains(*c))
                {
                    delimiter.extend((!"'\"\\".contains(next)).then_some(next));
                }
                self.delimiters.push(delimiter);
                return at;
            }
        } else if self.rest.peek() == Some(&'(') {
            self.next();
            self.commands(Some(')'));
            return at;
        } else if self.rest.peek().is_some_and(|c| matches!(c, '>' | '&' | '|')) {
            self.next();
        }
        At::Redirection {
            command: matches!(at, At::Command),
        }
    }

    fn skip_documents(&mut self) {
        for delimiter in std::mem::take(&mut self.delimiters) {
            loop {
                let mut line = String::new();
                let mut ended = true;
                while let Some(next) = self.next() {
                    if next == '\n' {
                        ended = false;
                        break;
                    }
                    line.push(next);
                }
                if ended || line.trim_start_matches('\t') == delimiter {
                    break;
                }
            }
        }
    }

    fn word(&mut self, at: At) -> At {
        let line = self.line;
        let word = self.raw_word();
        // The number of a file before its redirection, as in `2>&1`.
        if word.bytes().all(|b| b.is_ascii_digit()) && matches!(self.rest.peek(), Some('<' | '>')) {
            return at;
        }
        match at {
            At::Redirection { command: true } => At::Command,
            At::Redirection { command: false } | At::Argument => At::Argument,
            At::Case if word == "in" => At::Pattern,
            At::Case => At::Case,
            At::Pattern if word == "esac" => At::Argument,
            At::Pattern => self.pattern(),
            At::Prefixed if is_operand(&word) => At::Prefixed,
            At::Command | At::Prefixed => self.command(line, word),
        }
    }

    /// After a word of a pattern: a closing parenthesis ends it.
    fn pattern(&mut self) -> At {
        while self.rest.peek() == Some(&' ') {
            self.next();
        }
        if self.rest.peek() == Some(&')') {
            self.next();
            return At::Command;
        }
        At::Pattern
    }

    fn command(&mut self, line: usize, word: String) -> At {
        if is_assignment(&word) || KEYWORDS.contains(&word.as_str()) {
            return At::Command;
        }
        match word.as_str() {
            "case" => return At::Case,
            "for" | "fi" | "done" | "esac" | "}" | "function" => return At::Argument,
            "[[" => {
                while !matches!(self.raw_word().as_str(), "]]") && self.next().is_some() {}
                return At::Argument;
            }
            _ => {}
        }
        if self.rest.peek() == Some(&'(') {
            self.next();
            if self.rest.peek() == Some(&')') {
                self.next();
            }
            self.found.functions.insert(word);
            return At::Command;
        }
        let prefix = PREFIXES.contains(&word.as_str());
        let simple = |c: char| c.is_ascii_alphanumeric() || "_-.+:[".contains(c);
        if !word.is_empty() && word.chars().all(simple) && !word.starts_with('-') {
            self.found.commands.push((line, word));
        }
        if prefix { At::Prefixed } else { At::Argument }
    }

    /// One word, quotes included; what it starts in `$(…)` is read.
    fn raw_word(&mut self) -> String {
        let mut word = String::new();
        while let Some(&next) = self.rest.peek() {
            if next.is_whitespace() || ";&|()<>".contains(next) {
                break;
            }
            self.next();
            word.push(next);
            match next {
                '\\' => {
                    if let Some(escaped) = self.next() {
                        if escaped == '\n' {
                            word.pop();
                        } else {
                            word.push(escaped);
                        }
                    }
                }
                '\'' => while self.next().is_some_and(|c| c != '\'') {},
                '"' => self.quoted(),
                '$' => self.expansion(),
                _ => {}
            }
        }
        word
    }

    /// The rest of a text in double quotes.
    fn quoted(&mut self) {
        while let Some(next) = self.next() {
            match next {
                '"' => return,
                '\\' => {
                    self.next();
                }
                '$' => self.expansion(),
                _ => {}
            }
        }
    }

    /// What follows a dollar.
    fn expansion(&mut self) {
        match self.rest.peek() {
            Some('(') => {
                self.next();
                if self.rest.peek() == Some(&'(') {
                    self.skip_arithmetic();
                } else {
                    self.commands(Some(')'));
                }
            }
            Some('{') => {
                while let Some(next) = self.next() {
                    match next {
                        '}' => return,
                        '$' => self.expansion(),
                        '"' => self.quoted(),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }

    /// `((…))` from its second parenthesis on.
    fn skip_arithmetic(&mut self) {
        let mut open = 1;
        while open > 0
            && let Some(next) = self.next()
        {
            match next {
                '(' => open += 1,
                ')' => open -= 1,
                '$' => self.expansion(),
                _ => {}
            }
        }
    }
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        let name = name.trim_end_matches('+');
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    })
}

/// What stands between a prefix such as `timeout` and its command: options, assignments, numbers, things in quotes.
fn is_operand(word: &str) -> bool {
    word.starts_with(['-', '"', '$', '\'']) || is_assignment(word) || word.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(text: &str) -> Vec<String> {
        read(text).commands.into_iter().map(|(_, name)| name).collect()
    }

    #[test]
    fn commands_are_seen_wherever_a_shell_would_start_one() {
        for (text, expected) in [
            (
                "one; two && three || four | five &\nsix",
                "one two three four five six",
            ),
            ("if one; then two; else ! three; fi", "one two three"),
            ("while one; do two; done <file", "one two"),
            ("for x in a b; do one; done", "one"),
            ("x=$(one \"$(two)\") y=3 three", "one two three"),
            ("(one; two)", "one two"),
            ("case $x in a | b) one ;; *) two ;; esac; three", "one two three"),
            ("one 2>&1 >/dev/null && two 9>&-", "one two"),
            ("exec one", "one"),
            ("exec 9>\"$file\"\none", "one"),
            ("timeout 20 one --two", "timeout one"),
            ("nsenter --net=/x \"$y\" one two", "nsenter one"),
            ("echo \"$(one)\"; x=${y:-$(two)}", "one two"),
            ("one \\\n  two", "one"),
            ("[ \"$(one)\" = x ] || two", "one two"),
            ("((x = 1)); one $((2 + $(two)))", "two one"),
            ("x=1 >file one", "one"),
            ("mapfile -t x < <(one)", "one"),
        ] {
            let mut found = commands(text);
            let mut expected: Vec<_> = expected.split(' ').map(str::to_owned).collect();
            found.sort();
            expected.sort();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn text_is_no_command() {
        for text in [
            "# one",
            "echo one '; two' \"; three\" # four",
            "x=one",
            "cat <<-END >/dev/null\n\tone; two\n\tEND\n",
            "cat <<'END'\none; two\nEND\n",
            "trap 'one' EXIT",
            "f() { :; }",
            "\"$1\" two",
            "./one; /bin/two; $three",
            "[[ a && b ]]",
        ] {
            let found: Vec<_> = commands(text).into_iter().filter(|name| name != "cat").collect();
            assert!(found.is_empty(), "{text}: {found:?}");
        }
    }

    #[test]
    fn functions_and_lines_are_known() {
        let script = read("f() { one; }\ng ()\n{\n\ttwo\n}\nf\n");
        assert!(script.functions.contains("f"), "{script:?}");
        assert_eq!(script.commands[0], (1, "one".to_owned()));
        assert!(script.commands.contains(&(4, "two".to_owned())), "{script:?}");
    }
}
