//! Aggregates that can be put together from parts: what a node answers for its rows, and how parts become the whole.
//!
//! Parts are plain columns, never states of an engine, so that any version on any node can answer. Of an aggregate
//! over distinct values the parts are the values: the node groups by them too, and the rest of its parts, which
//! are additive or idempotent, do not mind being apart.
//!
//! | aggregate | parts of a node | whole |
//! |---|---|---|
//! | count, count_if | itself | sum |
//! | sum, min, max, bool_and, bit_or … | itself | itself |
//! | avg | sum, count | sum / sum |
//! | var, stddev (Chan) | count n, avg m, n · var_pop m2 | M = sum(n·m) / sum(n); sum(m2 + n·(m − M)²) |
//! | arg_max(x, v) | arg_max(x, v), max(v) of rows with x | arg_max of these |
//! | count, sum, avg (DISTINCT x), approx_count_distinct(x) | the distinct x | itself over them |

/// One call in a statement, as SQL text of resolved expressions.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) name: &'a str,
    pub(super) arguments: Vec<String>,
    pub(super) filter: Option<String>,
    pub(super) distinct: bool,
}

/// How a call is split.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Split {
    /// Node's expressions; [`whole`] of the name makes one of them.
    Parts(Vec<String>),
    /// The node's expression to group by.
    Values(String),
}

/// Combined by themselves, and blind to repetition where DISTINCT can stand.
const IDEMPOTENT: &[&str] = &["min", "max", "bool_and", "bool_or", "bit_and", "bit_or", "any_value"];
/// Combined by themselves.
const ADDITIVE: &[&str] = &["sum", "fsum", "kahan_sum", "sumkahan", "product", "bit_xor"];
/// Aggregates of distinct values that pass over NULL.
const OF_DISTINCT: &[&str] = &["count", "sum", "avg", "mean"];

impl Call<'_> {
    /// None: it cannot be split here.
    pub(super) fn split(&self) -> Option<Split> {
        let name = self.name;
        if name == "count_star" || (name == "count" && self.arguments.is_empty()) {
            return (!self.distinct).then(|| Split::Parts(vec![format!("count(*){}", self.filtered())]));
        }
        if matches!(family(name), Family::ArgMax | Family::ArgMin) {
            return self.split_arg();
        }
        let [x] = self.arguments.as_slice() else { return None };
        if (self.distinct && OF_DISTINCT.contains(&name))
            || (!self.distinct && name == "approx_count_distinct")
        {
            return Some(Split::Values(match &self.filter {
                Some(filter) => format!("CASE WHEN {filter} THEN {x} END"),
                None => x.clone(),
            }));
        }
        if self.distinct && !IDEMPOTENT.contains(&name) {
            return None;
        }
        let of = |function: &str, x: &str| format!("{function}({x}){}", self.filtered());
        Some(Split::Parts(match family(name) {
            Family::Itself | Family::Count | Family::Total => vec![of(name, x)],
            Family::Average => vec![of("sum", x), of("count", x)],
            Family::Spread { .. } => {
                let x = format!("CAST({x} AS DOUBLE)");
                let squares = format!("{} * {}", of("var_pop", &x), of("count", &x));
                vec![of("count", &x), of("avg", &x), squares]
            }
            Family::ArgMax | Family::ArgMin | Family::None => return None,
        }))
    }

    fn split_arg(&self) -> Option<Split> {
        let [x, v] = self.arguments.as_slice() else { return None };
        let (arg, end) =
            if family(self.name) == Family::ArgMax { ("arg_max", "max") } else { ("arg_min", "min") };
        let with_x = match &self.filter {
            Some(filter) => format!("({x} IS NOT NULL) AND ({filter})"),
            None => format!("{x} IS NOT NULL"),
        };
        let parts = vec![
            format!("{arg}({x}, {v}){}", self.filtered()),
            format!("{end}({v}) FILTER (WHERE {with_x})"),
        ];
        Some(Split::Parts(parts))
    }

    fn filtered(&self) -> String {
        self.filter.as_ref().map(|filter| format!(" FILTER (WHERE {filter})")).unwrap_or_default()
    }
}

/// The whole of an aggregate from the columns that hold its parts. `mean` is the column with the mean of the group.
pub(super) fn whole(name: &str, parts: &[String], mean: &str) -> Option<String> {
    let p = |index: usize| parts.get(index).map(String::as_str).unwrap_or_default();
    Some(match family(name) {
        Family::Itself => format!("{name}({})", p(0)),
        Family::Count => format!("CAST(coalesce(sum({}), 0) AS BIGINT)", p(0)),
        Family::Total => format!("sum({})", p(0)),
        Family::Average => format!("CAST(sum({}) AS DOUBLE) / sum({})", p(0), p(1)),
        Family::ArgMax => format!("arg_max({}, {})", p(0), p(1)),
        Family::ArgMin => format!("arg_min({}, {})", p(0), p(1)),
        Family::Spread { sample, root } => spread(p(0), p(1), p(2), mean, sample, root),
        Family::None => return None,
    })
}

/// Chan's sum of squared differences from the common mean, over the number of values.
fn spread(n: &str, m: &str, m2: &str, mean: &str, sample: bool, root: bool) -> String {
    let squares = format!("sum({m2} + {n} * ({m} - {mean}) * ({m} - {mean})) FILTER (WHERE {n} > 0)");
    let (least, count) = if sample { (1, format!("(sum({n}) - 1)")) } else { (0, format!("sum({n})")) };
    let variance = format!("CASE WHEN sum({n}) > {least} THEN {squares} / {count} END");
    if root { format!("sqrt({variance})") } else { variance }
}

/// What [`whole`] needs as `mean`, over all parts of one group; `window` names the group. None: nothing.
pub(super) fn mean(name: &str, parts: &[String], window: &str) -> Option<String> {
    let (Family::Spread { .. }, [n, m, ..]) = (family(name), parts) else { return None };
    Some(format!("sum({n} * {m}) FILTER (WHERE {n} > 0) OVER {window} / sum({n}) OVER {window}"))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Itself,
    Count,
    /// A count that is NULL where there is no row.
    Total,
    Average,
    Spread {
        sample: bool,
        root: bool,
    },
    ArgMax,
    ArgMin,
    None,
}

fn family(name: &str) -> Family {
    match name {
        "count_star" | "count" => Family::Count,
        "count_if" | "countif" => Family::Total,
        "avg" | "mean" => Family::Average,
        "var_pop" => Family::Spread { sample: false, root: false },
        "var_samp" | "variance" => Family::Spread { sample: true, root: false },
        "stddev_pop" => Family::Spread { sample: false, root: true },
        "stddev_samp" | "stddev" => Family::Spread { sample: true, root: true },
        "arg_max" | "argmax" | "max_by" => Family::ArgMax,
        "arg_min" | "argmin" | "min_by" => Family::ArgMin,
        _ if IDEMPOTENT.contains(&name) || ADDITIVE.contains(&name) => Family::Itself,
        _ => Family::None,
    }
}
