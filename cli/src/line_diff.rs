//! Two texts as a unified diff. For documents of people: hundreds of lines, not millions.

/// Unchanged lines around a change.
const CONTEXT_LINES: usize = 3;
/// Cells of the table of common lines; beyond, what differs is shown as removed and added whole (16 MiB of memory).
const CELLS_MAX: usize = 4 << 20;

/// One line of a diff.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    /// Where the lines after it stand: `@@ -1,5 +1,6 @@`.
    Place(String),
    Same(&'a str),
    Removed(&'a str),
    Added(&'a str),
}

/// What stands in `after` and not in `before`, and the other way round; nothing where both are the same.
pub(crate) fn unified<'a>(before: &'a str, after: &'a str) -> Vec<Line<'a>> {
    let edits = edits(&before.lines().collect::<Vec<_>>(), &after.lines().collect::<Vec<_>>());
    let changed: Vec<usize> = (0..edits.len()).filter(|at| !matches!(edits[*at], Line::Same(_))).collect();
    let mut out = Vec::new();
    let mut rest = changed.as_slice();
    while let Some(first) = rest.first() {
        // Changes whose surroundings touch are shown together.
        let near = rest.windows(2).take_while(|pair| pair[1] - pair[0] <= 2 * CONTEXT_LINES + 1).count();
        let from = first.saturating_sub(CONTEXT_LINES);
        let to = (rest[near] + CONTEXT_LINES + 1).min(edits.len());
        out.push(place(&edits, from, to));
        out.extend_from_slice(&edits[from..to]);
        rest = &rest[near + 1..];
    }
    out
}

fn place<'a>(edits: &[Line<'a>], from: usize, to: usize) -> Line<'a> {
    let old = |lines: &[Line<'_>]| lines.iter().filter(|line| !matches!(line, Line::Added(_))).count();
    let new = |lines: &[Line<'_>]| lines.iter().filter(|line| !matches!(line, Line::Removed(_))).count();
    // A side without lines is said to stand after the line before, as `diff -u` has it.
    let side =
        |before: usize, count: usize| format!("{},{count}", if count == 0 { before } else { before + 1 });
    let (head, shown) = (&edits[..from], &edits[from..to]);
    Line::Place(format!("@@ -{} +{} @@", side(old(head), old(shown)), side(new(head), new(shown))))
}

/// Every line of both, in order: removed ones before those that take their place.
fn edits<'a>(before: &[&'a str], after: &[&'a str]) -> Vec<Line<'a>> {
    let head = before.iter().zip(after).take_while(|(a, b)| a == b).count();
    let (before_rest, after_rest) = (&before[head..], &after[head..]);
    let tail = before_rest.iter().rev().zip(after_rest.iter().rev()).take_while(|(a, b)| a == b).count();
    let (old, new) = (&before_rest[..before_rest.len() - tail], &after_rest[..after_rest.len() - tail]);
    let mut lines: Vec<Line<'a>> = before[..head].iter().map(|line| Line::Same(line)).collect();
    if old.len().saturating_mul(new.len()) > CELLS_MAX {
        lines.extend(old.iter().map(|line| Line::Removed(line)));
        lines.extend(new.iter().map(|line| Line::Added(line)));
    } else {
        walk(old, new, &mut lines);
    }
    lines.extend(before_rest[before_rest.len() - tail..].iter().map(|line| Line::Same(line)));
    lines
}

/// Keeps the longest sequence of lines that both have.
fn walk<'a>(old: &[&'a str], new: &[&'a str], lines: &mut Vec<Line<'a>>) {
    let width = new.len() + 1;
    // `common[i * width + j]`: how many lines `old[i..]` and `new[j..]` have in common at most.
    let mut common = vec![0u32; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i * width + j] = if old[i] == new[j] {
                common[(i + 1) * width + j + 1] + 1
            } else {
                common[(i + 1) * width + j].max(common[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            lines.push(Line::Same(old[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == new.len()
            || (i < old.len() && common[(i + 1) * width + j] >= common[i * width + j + 1])
        {
            lines.push(Line::Removed(old[i]));
            i += 1;
        } else {
            lines.push(Line::Added(new[j]));
            j += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(before: &str, after: &str) -> String {
        let lines = unified(before, after);
        let line = |line: &Line<'_>| match line {
            Line::Place(place) => format!("{place}\n"),
            Line::Same(text) => format!(" {text}\n"),
            Line::Removed(text) => format!("-{text}\n"),
            Line::Added(text) => format!("+{text}\n"),
        };
        lines.iter().map(line).collect()
    }

    #[test]
    fn changes_are_shown_with_three_lines_around_and_places_as_diff_has_them() {
        assert_eq!(text("a\nb\n", "a\nb\n"), "");
        assert_eq!(text("", "a\nb\n"), "@@ -0,0 +1,2 @@\n+a\n+b\n");
        assert_eq!(text("a\n", ""), "@@ -1,1 +0,0 @@\n-a\n");
        let before: String = (1..=30).map(|n| format!("{n}\n")).collect();
        let after = before.replace("\n5\n", "\nfive\n").replace("\n20\n", "\n20\ntwenty and a half\n");
        assert_eq!(
            text(&before, &after),
            "@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n\
             @@ -18,6 +18,7 @@\n 18\n 19\n 20\n+twenty and a half\n 21\n 22\n 23\n"
        );
        let close = before.replace("\n5\n", "\nfive\n").replace("\n12\n", "\ntwelve\n");
        assert_eq!(text(&before, &close).matches("@@ -").count(), 1);
        let apart = before.replace("\n5\n", "\nfive\n").replace("\n13\n", "\nthirteen\n");
        assert_eq!(text(&before, &apart).matches("@@ -").count(), 2);
    }

    #[test]
    fn any_diff_leads_from_the_one_text_to_the_other() {
        let mut seed = 7u64;
        let mut random = move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            seed >> 33
        };
        for round in 0..500 {
            let mut side =
                || (0..random() % 12).map(|_| ["a", "b", "c"][random() as usize % 3]).collect::<Vec<_>>();
            let (before, after) = (side(), side());
            let lines = edits(&before, &after);
            let old: Vec<_> = lines
                .iter()
                .filter_map(|l| if let Line::Same(t) | Line::Removed(t) = l { Some(*t) } else { None })
                .collect();
            let new: Vec<_> = lines
                .iter()
                .filter_map(|l| if let Line::Same(t) | Line::Added(t) = l { Some(*t) } else { None })
                .collect();
            assert_eq!((old, new), (before, after), "round {round}");
        }
    }
}
