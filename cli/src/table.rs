//! Tables as kubectl prints them.

/// Returns rows below a heading, each column as wide as its widest cell; without rows nothing.
#[must_use]
pub fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    const GAP: usize = 3;
    if rows.is_empty() {
        return String::new();
    }
    let heading: Vec<String> = heading.iter().map(|&text| text.to_owned()).collect();
    let all = || std::iter::once(&heading).chain(rows);
    let cells = |row: &Vec<String>, column: usize| row.get(column).map_or(0, |cell| cell.chars().count());
    let widths: Vec<usize> = (0..heading.len())
        .map(|column| all().map(|row| cells(row, column)).max().unwrap_or_default())
        .collect();
    let mut text = String::new();
    for row in all() {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line += cell;
            line.extend(std::iter::repeat_n(
                ' ',
                width + GAP - cell.chars().count().min(*width),
            ));
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// Returns items joined by commas, or a dash where there is none.
pub fn joined<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    if items.is_empty() {
        "-".to_owned()
    } else {
        items.join(",")
    }
}

/// Returns the first few of many names, and how many more there are.
#[must_use]
pub fn few(names: &[String]) -> String {
    const FEW: usize = 3;
    match names.len().checked_sub(FEW) {
        Some(more) if more > 0 => format!("{} and {more} more", joined(&names[..FEW])),
        _ => joined(names),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            vec!["ä".to_owned(), "1".to_owned()],
            vec!["longer".to_owned(), String::new()],
        ];
        assert_eq!(table(&["A", "B"], &rows), "A        B\nä        1\nlonger\n");
        assert_eq!(table(&["A"], &[]), "");
    }

    #[test]
    fn of_many_names_the_first_few_are_shown() {
        let names: Vec<String> = ["a", "b", "c", "d", "e"].map(str::to_owned).into();
        assert_eq!(few(&names), "a,b,c and 2 more");
        assert_eq!((few(&names[..3]), few(&[])), ("a,b,c".to_owned(), "-".to_owned()));
    }
}
