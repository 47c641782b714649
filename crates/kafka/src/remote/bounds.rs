//! Which offsets may matter to a scan, and which records do.

use aap_federation::{Comparison, Literal, Predicate, Report, Scan};
use rdkafka::message::{BorrowedMessage, Message};

/// Columns that every topic has.
pub(super) const TS: &str = "ts";
pub(super) const PARTITION: &str = "_partition";
pub(super) const OFFSET: &str = "_offset";
pub(super) const KEY: &str = "_key";
pub(super) const VALUE: &str = "_value";

/// Conditions on the columns that every topic has.
#[derive(Debug, Clone, Default)]
pub(super) struct Bounds {
    conditions: Vec<Condition>,
    /// Rows after which nothing more is needed.
    pub(super) limit: Option<u64>,
}

#[derive(Debug, Clone, PartialEq)]
enum Condition {
    Time(Comparison, i64),
    Partition(Comparison, i64),
    Offset(Comparison, i64),
    /// The key is one of these.
    Key(Vec<String>),
}

impl Bounds {
    /// Takes what it can of the scan, and says so.
    pub(super) fn of(scan: &Scan, report: &mut Report) -> Self {
        let mut conditions = vec![];
        for filter in &scan.filters {
            match Condition::of(filter) {
                Some(condition) => {
                    report.push(filter);
                    conditions.push(condition);
                }
                None => {
                    report.keep(filter, "a broker knows time, partition, offset and key of a record only")
                }
            }
        }
        if scan.aggregate.is_some() {
            report.keep("aggregation", "a broker computes nothing");
        }
        let exact = report.kept.iter().all(|kept| kept.what == "aggregation");
        let limit = report.limit(scan.limit, exact);
        Self { conditions, limit }
    }

    /// The first time that may matter, in milliseconds since 1970.
    pub(super) fn first_ms(&self) -> Option<i64> {
        let lower = self.conditions.iter().filter_map(|condition| match condition {
            Condition::Time(comparison, us) if from_below(*comparison) => Some(us.div_euclid(1000)),
            _ => None,
        });
        lower.max()
    }

    /// The offsets that may matter, both inclusive.
    pub(super) fn offsets(&self) -> (i64, i64) {
        let (mut low, mut high) = (0, i64::MAX);
        for condition in &self.conditions {
            let Condition::Offset(comparison, offset) = condition else { continue };
            match comparison {
                Comparison::Equal => (low, high) = (low.max(*offset), high.min(*offset)),
                Comparison::Greater => low = low.max(offset.saturating_add(1)),
                Comparison::GreaterOrEqual => low = low.max(*offset),
                Comparison::Less => high = high.min(offset.saturating_sub(1)),
                Comparison::LessOrEqual => high = high.min(*offset),
                Comparison::NotEqual => {}
            }
        }
        (low, high)
    }

    /// Whether records of the partition can matter.
    pub(super) fn wants_partition(&self, partition: i32) -> bool {
        self.conditions.iter().all(|condition| match condition {
            Condition::Partition(comparison, wanted) => holds(i64::from(partition), *comparison, *wanted),
            _ => true,
        })
    }

    /// Whether all conditions hold for a record of a partition that is wanted.
    pub(super) fn wants(&self, record: &BorrowedMessage<'_>) -> bool {
        self.conditions.iter().all(|condition| match condition {
            Condition::Time(comparison, us) => {
                let millis = record.timestamp().to_millis();
                millis.is_some_and(|ms| holds(ms.saturating_mul(1000), *comparison, *us))
            }
            Condition::Offset(comparison, offset) => holds(record.offset(), *comparison, *offset),
            Condition::Key(keys) => {
                record.key().is_some_and(|key| keys.iter().any(|wanted| wanted.as_bytes() == key))
            }
            Condition::Partition(..) => true,
        })
    }
}

fn from_below(comparison: Comparison) -> bool {
    matches!(comparison, Comparison::Equal | Comparison::Greater | Comparison::GreaterOrEqual)
}

fn holds(value: i64, comparison: Comparison, wanted: i64) -> bool {
    match comparison {
        Comparison::Equal => value == wanted,
        Comparison::NotEqual => value != wanted,
        Comparison::Less => value < wanted,
        Comparison::LessOrEqual => value <= wanted,
        Comparison::Greater => value > wanted,
        Comparison::GreaterOrEqual => value >= wanted,
    }
}

impl Condition {
    fn of(predicate: &Predicate) -> Option<Self> {
        let column = predicate.column().to_lowercase();
        match predicate {
            Predicate::Compare { comparison, value, .. } => match (column.as_str(), value) {
                (TS, value) => Some(Self::Time(*comparison, value.moment()?)),
                (PARTITION, Literal::Int(number)) => Some(Self::Partition(*comparison, *number)),
                (OFFSET, Literal::Int(number)) => Some(Self::Offset(*comparison, *number)),
                (KEY, Literal::Text(text)) if *comparison == Comparison::Equal => {
                    Some(Self::Key(vec![text.clone()]))
                }
                _ => None,
            },
            Predicate::In { values, .. } if column == KEY => {
                let texts = values.iter().map(|value| match value {
                    Literal::Text(text) => Some(text.clone()),
                    _ => None,
                });
                Some(Self::Key(texts.collect::<Option<_>>()?))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(column: &str, comparison: Comparison, value: Literal) -> Predicate {
        Predicate::Compare { column: column.to_owned(), comparison, value }
    }

    #[test]
    fn conditions_on_the_record_bound_the_reading_and_others_are_left() {
        use Comparison::{Equal, Greater, LessOrEqual};
        let scan = Scan {
            filters: vec![
                compare("TS", Greater, Literal::Moment(5_999)),
                compare("_offset", LessOrEqual, Literal::Int(70)),
                compare("_offset", Greater, Literal::Int(9)),
                compare("_partition", Equal, Literal::Int(2)),
            ],
            limit: Some(3),
            ..Scan::default()
        };
        let mut report = Report::of(&scan);
        let bounds = Bounds::of(&scan, &mut report);
        assert_eq!((bounds.first_ms(), bounds.offsets(), bounds.limit), (Some(5), (10, 70), Some(3)));
        assert!(bounds.wants_partition(2) && !bounds.wants_partition(0));
        assert!(report.kept.is_empty() && report.pushed.len() == 5, "{report:?}");
        let scan = Scan { filters: vec![compare("status", Equal, Literal::Int(1))], ..scan };
        let mut report = Report::of(&scan);
        assert_eq!(Bounds::of(&scan, &mut report).limit, None, "the engine drops rows after this");
        assert_eq!(report.kept.len(), 2);
    }
}
