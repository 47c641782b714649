//! What somebody may have meant who wrote a name that does not exist.

/// Most names that a hint lists.
const NEAR_NAMES_MAX: usize = 5;

/// The names nearest to `name`, nearest first.
pub fn nearest<'a, T: AsRef<str>>(name: &str, known: &'a [T]) -> Vec<&'a str> {
    let wanted = name.to_lowercase();
    let far = (wanted.chars().count() / 2).clamp(1, 4);
    let mut near: Vec<(usize, &str)> = known
        .iter()
        .map(|candidate| (distance(&wanted, candidate.as_ref()), candidate.as_ref()))
        .filter(|(distance, candidate)| {
            *distance <= far || candidate.contains(&wanted) || wanted.contains(candidate)
        })
        .collect();
    near.sort();
    near.into_iter().take(NEAR_NAMES_MAX).map(|(_, candidate)| candidate).collect()
}

/// Levenshtein distance in characters. Names are short, so the simple form does.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(128).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(128).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let cost = if x == *y { diagonal } else { diagonal + 1 };
            diagonal = row[j + 1];
            row[j + 1] = cost.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_come_nearest_first_and_far_ones_not_at_all() {
        let known = ["logs", "log_lines", "events"];
        assert_eq!(nearest("log", &known), ["logs", "log_lines"]);
        assert_eq!(nearest("evnets", &known), ["events"]);
        assert_eq!(nearest("zzzzzz", &known), Vec::<&str>::new());
    }
}
