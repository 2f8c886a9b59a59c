//! The files of the page, which are a part of the program: nothing is built, and nothing comes from elsewhere.

/// A file of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File {
    /// The path of its address.
    pub path: &'static str,
    /// What it is.
    pub media_type: &'static str,
    /// What is in it.
    pub text: &'static str,
}

/// What the browser may do for the page: take these files and listen to the program, and nothing else. Text is not parsed as HTML or
/// as a program, also not where a mistake of ours asks for it (Trusted Types).
pub const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                          base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
                          trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const PICTURE: &str = "image/svg+xml";

const fn file(path: &'static str, media_type: &'static str, text: &'static str) -> File {
    File {
        path,
        media_type,
        text,
    }
}

const FILES: [File; 9] = [
    file("/", HTML, include_str!("page/index.html")),
    file("/map.css", CSS, include_str!("page/map.css")),
    file("/icon.svg", PICTURE, include_str!("page/icon.svg")),
    file("/app.js", SCRIPT, include_str!("page/app.js")),
    file("/dom.js", SCRIPT, include_str!("page/dom.js")),
    file("/layout.js", SCRIPT, include_str!("page/layout.js")),
    file("/lists.js", SCRIPT, include_str!("page/lists.js")),
    file("/picture.js", SCRIPT, include_str!("page/picture.js")),
    file("/words.js", SCRIPT, include_str!("page/words.js")),
];

/// Returns the file at a path.
#[must_use]
pub fn at(path: &str) -> Option<File> {
    FILES.into_iter().find(|file| file.path == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_its_own_files_alone() {
        for file in FILES {
            let words = file.text.split(['"', '\'']);
            for name in
                words.filter(|word| word.ends_with(".js") || word.ends_with(".css") || word.ends_with(".svg"))
            {
                let path = format!("/{}", name.trim_start_matches("./").trim_start_matches('/'));
                assert!(at(&path).is_some(), "{} names {name}", file.path);
            }
            let elsewhere = file.text.replace("http://www.w3.org/2000/svg", "");
            assert!(!elsewhere.contains("://"), "{} names an address", file.path);
        }
    }

    #[test]
    fn nothing_makes_markup_of_text() {
        for file in FILES {
            for way in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "new Function",
                "srcdoc",
            ] {
                assert!(!file.text.contains(way), "{}: {way}", file.path);
            }
        }
        let inline = ["<style", " style=", " onclick=", "<script>"];
        let html = at("/").unwrap().text;
        assert!(inline.iter().all(|inline| !html.contains(inline)));
    }
}
