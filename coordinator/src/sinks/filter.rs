//! The filter of a sink, `where:` in its document: which rows it takes.
//!
//! ```text
//! severity = 'ERROR' and (status >= 500 or path like '/api/%') and user is not null
//! ```
//! Comparisons of a column with a constant, `in (…)`, `between … and …`, `like`, `is [not] null`, joined by `and`, `or`, `not`
//! and parentheses, with SQL's meaning: what is compared with NULL is unknown, and a row is taken only where the whole is
//! true. A column that a batch does not have is NULL. Constants are numbers, `'texts'`, `true` and `false`; times are texts
//! such as `'2026-11-26T10:00:00Z'`.

use std::str::FromStr;
use std::sync::Arc;

use aap_columns::text;
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch, Scalar, StringArray, new_null_array};
use arrow_cast::{CastOptions, cast, cast_with_options};
use arrow_ord::cmp;
use arrow_schema::{ArrowError, DataType, TimeUnit};
use arrow_select::filter::filter_record_batch;

/// Deepest nesting: more is not written by people, and the reader calls itself.
const DEPTH_MAX: usize = 64;

/// A filter that was read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Filter(Expression);

#[derive(Debug, Clone, PartialEq)]
enum Expression {
    And(Box<Expression>, Box<Expression>),
    Or(Box<Expression>, Box<Expression>),
    Not(Box<Expression>),
    Compare(String, Operator, Constant),
    In(String, Vec<Constant>),
    Like(String, String),
    IsNull(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, Clone, PartialEq)]
enum Constant {
    Number(String),
    Text(String),
    Boolean(bool),
}

impl Constant {
    fn as_text(&self) -> &str {
        match self {
            Self::Number(text) | Self::Text(text) => text,
            Self::Boolean(true) => "true",
            Self::Boolean(false) => "false",
        }
    }
}

/// True, false or unknown, for each row.
type Truth = Vec<Option<bool>>;

impl Filter {
    /// The rows that it takes, in their order.
    pub(crate) fn apply(&self, rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let truth = self.0.truth(rows)?;
        let taken: BooleanArray = truth.into_iter().map(|truth| Some(truth == Some(true))).collect();
        filter_record_batch(rows, &taken)
    }
}

impl Expression {
    fn truth(&self, rows: &RecordBatch) -> Result<Truth, ArrowError> {
        let count = rows.num_rows();
        let both = |one: &Self, other: &Self, join: fn(Option<bool>, Option<bool>) -> Option<bool>| {
            let pairs = one.truth(rows)?.into_iter().zip(other.truth(rows)?);
            Ok(pairs.map(|(one, other)| join(one, other)).collect())
        };
        match self {
            Self::And(one, other) => both(one, other, and),
            Self::Or(one, other) => {
                both(one, other, |one, other| and(not(one), not(other)).map(|both| !both))
            }
            Self::Not(inner) => Ok(inner.truth(rows)?.into_iter().map(not).collect()),
            Self::Compare(column, operator, constant) => match find(rows, column) {
                Some(values) => compare(&values, *operator, constant),
                None => Ok(vec![None; count]),
            },
            Self::In(column, constants) => {
                let any = constants
                    .iter()
                    .map(|constant| Self::Compare(column.clone(), Operator::Equal, constant.clone()));
                let any = any.reduce(|one, other| Self::Or(Box::new(one), Box::new(other)));
                any.map_or(Ok(vec![Some(false); count]), |any| any.truth(rows))
            }
            Self::Like(column, pattern) => {
                let Some(values) = find(rows, column) else { return Ok(vec![None; count]) };
                let texts = text(&values)?;
                let pattern: Vec<char> = pattern.chars().collect();
                let texts = texts.as_string::<i32>().iter();
                Ok(texts.map(|text| Some(is_like(&text?.chars().collect::<Vec<_>>(), &pattern))).collect())
            }
            Self::IsNull(column) => {
                let values = find(rows, column).unwrap_or_else(|| new_null_array(&DataType::Null, count));
                Ok((0..count)
                    .map(|row| Some(*values.data_type() == DataType::Null || values.is_null(row)))
                    .collect())
            }
        }
    }
}

fn and(one: Option<bool>, other: Option<bool>) -> Option<bool> {
    match (one, other) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        _ => None,
    }
}

fn not(one: Option<bool>) -> Option<bool> {
    one.map(|truth| !truth)
}

/// A column by its name, whose case does not matter.
fn find(rows: &RecordBatch, name: &str) -> Option<ArrayRef> {
    let schema = rows.schema();
    let index = schema.fields().iter().position(|field| field.name().eq_ignore_ascii_case(name))?;
    Some(rows.column(index).clone())
}

/// In the type of the column where the constant has a form in it; numbers that have none, such as 1.5 beside integers, as
/// doubles; everything else as text.
fn compare(values: &ArrayRef, operator: Operator, constant: &Constant) -> Result<Truth, ArrowError> {
    let written: ArrayRef = Arc::new(StringArray::from(vec![constant.as_text()]));
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let in_type = |kind: &DataType| match kind {
        // Times with a zone are in UTC here; the constant says its own offset.
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) => {
            let plain =
                cast_with_options(&written, &DataType::Timestamp(TimeUnit::Microsecond, None), &strict)
                    .ok()?;
            let plain = plain.as_primitive::<TimestampMicrosecondType>().clone();
            Some(Arc::new(plain.with_timezone(zone.clone())) as ArrayRef)
        }
        kind => cast_with_options(&written, kind, &strict).ok(),
    };
    let (values, constant) = match in_type(values.data_type()) {
        Some(constant) => (values.clone(), constant),
        None => match (matches!(constant, Constant::Number(_)), in_type(&DataType::Float64)) {
            (true, Some(constant)) if values.data_type().is_numeric() => {
                (cast(values, &DataType::Float64)?, constant)
            }
            _ => (text(values)?, written),
        },
    };
    let constant = Scalar::new(constant);
    let compared = match operator {
        Operator::Equal => cmp::eq(&values, &constant),
        Operator::Unequal => cmp::neq(&values, &constant),
        Operator::Less => cmp::lt(&values, &constant),
        Operator::LessOrEqual => cmp::lt_eq(&values, &constant),
        Operator::Greater => cmp::gt(&values, &constant),
        Operator::GreaterOrEqual => cmp::gt_eq(&values, &constant),
    }?;
    Ok(compared.iter().collect())
}

/// `%` stands for any text, `_` for one character. Goes back to the last `%` only, so that no pattern takes long.
fn is_like(text: &[char], pattern: &[char]) -> bool {
    let (mut at, mut place) = (0, 0);
    let mut last: Option<(usize, usize)> = None;
    while at < text.len() {
        match pattern.get(place) {
            Some('%') => {
                last = Some((place, at));
                place += 1;
            }
            Some(one) if *one == '_' || *one == text[at] => (at, place) = (at + 1, place + 1),
            _ => match &mut last {
                Some((percent, tried)) => {
                    *tried += 1;
                    (at, place) = (*tried, *percent + 1);
                }
                None => return false,
            },
        }
    }
    pattern[place..].iter().all(|rest| *rest == '%')
}

impl FromStr for Filter {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let mut reader = Reader { tokens: tokens(text)?, at: 0, depth: 0 };
        let read = reader.either()?;
        match reader.next() {
            None => Ok(Self(read)),
            Some(more) => Err(format!("`{}` follows where the filter could end", more.shown())),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    /// A keyword or a name, as written.
    Word(String),
    /// A name in double quotes.
    Name(String),
    Text(String),
    Number(String),
    Sign(&'static str),
}

impl Token {
    fn shown(&self) -> String {
        match self {
            Self::Word(text) | Self::Number(text) => text.clone(),
            Self::Name(text) => format!("\"{text}\""),
            Self::Text(text) => format!("'{text}'"),
            Self::Sign(sign) => (*sign).to_owned(),
        }
    }
}

const SIGNS: [&str; 10] = ["<=", ">=", "<>", "!=", "=", "<", ">", "(", ")", ","];

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut rest = text.trim_start();
    let mut out = vec![];
    while let Some(first) = rest.chars().next() {
        let (token, length) = if let Some(sign) = SIGNS.into_iter().find(|sign| rest.starts_with(sign)) {
            (Token::Sign(sign), sign.len())
        } else if first == '\'' || first == '"' {
            let (inner, length) = quoted(rest, first).ok_or_else(|| format!("{first} is not closed"))?;
            (if first == '"' { Token::Name(inner) } else { Token::Text(inner) }, length)
        } else if first.is_ascii_digit() || matches!(first, '-' | '.') {
            let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+');
            let length = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            let number = &rest[..length];
            number.parse::<f64>().map_err(|_| format!("`{number}` is no number"))?;
            (Token::Number(number.to_owned()), length)
        } else if first.is_alphabetic() || first == '_' {
            let length =
                rest.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.'))).unwrap_or(rest.len());
            (Token::Word(rest[..length].to_owned()), length)
        } else {
            return Err(format!("`{first}` has no meaning here"));
        };
        out.push(token);
        rest = rest[length..].trim_start();
    }
    Ok(out)
}

/// What stands between quotes, of which a doubled one is one, and how long it is with them.
fn quoted(text: &str, quote: char) -> Option<(String, usize)> {
    let mut inner = String::new();
    let mut letters = text.char_indices().skip(1).peekable();
    while let Some((at, letter)) = letters.next() {
        if letter != quote {
            inner.push(letter);
        } else if letters.peek().is_some_and(|(_, next)| *next == quote) {
            inner.push(quote);
            letters.next();
        } else {
            return Some((inner, at + 1));
        }
    }
    None
}

struct Reader {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

impl Reader {
    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    /// Takes a keyword if it is next.
    fn takes(&mut self, keyword: &str) -> bool {
        let is_next =
            matches!(self.tokens.get(self.at), Some(Token::Word(word)) if word.eq_ignore_ascii_case(keyword));
        self.at += usize::from(is_next);
        is_next
    }

    fn takes_sign(&mut self, sign: &str) -> bool {
        let is_next = matches!(self.tokens.get(self.at), Some(Token::Sign(next)) if *next == sign);
        self.at += usize::from(is_next);
        is_next
    }

    fn wants(&mut self, what: &str, found: bool) -> Result<(), String> {
        if found {
            return Ok(());
        }
        Err(match self.tokens.get(self.at) {
            Some(token) => format!("{what} is missing before `{}`", token.shown()),
            None => format!("{what} is missing at the end"),
        })
    }

    fn either(&mut self) -> Result<Expression, String> {
        let mut left = self.both()?;
        while self.takes("or") {
            left = Expression::Or(Box::new(left), Box::new(self.both()?));
        }
        Ok(left)
    }

    fn both(&mut self) -> Result<Expression, String> {
        let mut left = self.one()?;
        while self.takes("and") {
            left = Expression::And(Box::new(left), Box::new(self.one()?));
        }
        Ok(left)
    }

    fn one(&mut self) -> Result<Expression, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!("it is nested deeper than {DEPTH_MAX}"));
        }
        let read = if self.takes("not") {
            Expression::Not(Box::new(self.one()?))
        } else if self.takes_sign("(") {
            let inner = self.either()?;
            let closed = self.takes_sign(")");
            self.wants("`)`", closed)?;
            inner
        } else {
            self.condition()?
        };
        self.depth -= 1;
        Ok(read)
    }

    fn condition(&mut self) -> Result<Expression, String> {
        let column = match self.next() {
            Some(Token::Word(name) | Token::Name(name)) => name,
            Some(other) => return Err(format!("a column is missing before `{}`", other.shown())),
            None => return Err("a column is missing at the end".to_owned()),
        };
        if self.takes("is") {
            let negated = self.takes("not");
            let null = self.takes("null");
            self.wants("`null`", null)?;
            return Ok(negate(negated, Expression::IsNull(column)));
        }
        let negated = self.takes("not");
        if self.takes("in") {
            return Ok(negate(negated, Expression::In(column, self.list()?)));
        }
        if self.takes("like") {
            let Some(Token::Text(pattern)) = self.next() else {
                return Err("`like` needs a pattern in single quotes".to_owned());
            };
            return Ok(negate(negated, Expression::Like(column, pattern)));
        }
        if self.takes("between") {
            let from = self.constant()?;
            let and = self.takes("and");
            self.wants("`and`", and)?;
            let from = Expression::Compare(column.clone(), Operator::GreaterOrEqual, from);
            let to = Expression::Compare(column, Operator::LessOrEqual, self.constant()?);
            return Ok(negate(negated, Expression::And(Box::new(from), Box::new(to))));
        }
        let operator = match self.next() {
            Some(Token::Sign("=")) => Operator::Equal,
            Some(Token::Sign("!=" | "<>")) => Operator::Unequal,
            Some(Token::Sign("<")) => Operator::Less,
            Some(Token::Sign("<=")) => Operator::LessOrEqual,
            Some(Token::Sign(">")) => Operator::Greater,
            Some(Token::Sign(">=")) => Operator::GreaterOrEqual,
            _ => return Err(format!("a comparison is missing after `{column}`")),
        };
        Ok(negate(negated, Expression::Compare(column, operator, self.constant()?)))
    }

    fn list(&mut self) -> Result<Vec<Constant>, String> {
        let open = self.takes_sign("(");
        self.wants("`(`", open)?;
        let mut all = vec![self.constant()?];
        while self.takes_sign(",") {
            all.push(self.constant()?);
        }
        let closed = self.takes_sign(")");
        self.wants("`)`", closed)?;
        Ok(all)
    }

    fn constant(&mut self) -> Result<Constant, String> {
        match self.next() {
            Some(Token::Number(text)) => Ok(Constant::Number(text)),
            Some(Token::Text(text)) => Ok(Constant::Text(text)),
            Some(Token::Word(word)) if word.eq_ignore_ascii_case("true") => Ok(Constant::Boolean(true)),
            Some(Token::Word(word)) if word.eq_ignore_ascii_case("false") => Ok(Constant::Boolean(false)),
            Some(Token::Word(word)) if word.eq_ignore_ascii_case("null") => {
                Err("nothing equals NULL: write `is null`".to_owned())
            }
            Some(Token::Word(word) | Token::Name(word)) => {
                Err(format!("`{word}` is a column: put texts into single quotes"))
            }
            Some(other) => Err(format!("a constant is missing before `{}`", other.shown())),
            None => Err("a constant is missing at the end".to_owned()),
        }
    }
}

fn negate(negated: bool, inner: Expression) -> Expression {
    if negated { Expression::Not(Box::new(inner)) } else { inner }
}

#[cfg(test)]
mod tests {
    use arrow_array::{BooleanArray, Float64Array, Int32Array, TimestampMicrosecondArray};

    use super::*;

    fn rows() -> RecordBatch {
        let columns: [(&str, ArrayRef); 5] = [
            ("id", Arc::new(Int32Array::from(vec![Some(0), Some(1), Some(2), None]))),
            ("name", Arc::new(StringArray::from(vec![Some("Oslo"), Some("o'Neill"), None, Some("")]))),
            ("price", Arc::new(Float64Array::from(vec![Some(0.5), Some(1.0), Some(-3.0), None]))),
            ("good", Arc::new(BooleanArray::from(vec![Some(true), Some(false), None, Some(true)]))),
            (
                "ts",
                Arc::new(
                    TimestampMicrosecondArray::from(vec![0, 1_000_000, 2_000_000, 3_000_000])
                        .with_timezone("UTC"),
                ),
            ),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    fn check(filter: &str, taken: &[usize]) {
        let filter: Filter = filter.parse().unwrap();
        let truth = filter.0.truth(&rows()).unwrap();
        let found: Vec<usize> = (0..4).filter(|row| truth[*row] == Some(true)).collect();
        assert_eq!(found, taken, "{filter:?}");
        assert_eq!(filter.apply(&rows()).unwrap().num_rows(), taken.len());
    }

    #[test]
    fn rows_are_taken_where_sql_would_take_them() {
        check("id = 1", &[1]);
        check("ID <> 1", &[0, 2]);
        check("not id = 1", &[0, 2]);
        check("id >= 0.5 and id < 300", &[1, 2]);
        check("id < 99999999999", &[0, 1, 2]);
        check("id = '1'", &[1]);
        check("id in (0, 2, 7)", &[0, 2]);
        check("id not in (0, 2)", &[1]);
        check("id between 1 and 2", &[1, 2]);
        check("id is null or price > 0", &[0, 1, 3]);
        check("id is not null and not price > 0", &[2]);
        check("name = 'o''Neill'", &[1]);
        check("name like 'O%o' or name like '_''%'", &[0, 1]);
        check("name not like '%o%'", &[3]);
        check("name = 'Oslo' or id = 2", &[0, 2]);
    }

    #[test]
    fn booleans_times_and_columns_that_are_not_there() {
        check("good = true", &[0, 3]);
        check("good <> true", &[1]);
        check("ts >= '1970-01-01T00:00:02Z'", &[2, 3]);
        check("missing = 1", &[]);
        check("missing is null", &[0, 1, 2, 3]);
        check("not missing = 1", &[]);
        check("\"name\" = 'Oslo' and (good = true or missing = 'x')", &[0]);
    }

    #[test]
    fn what_is_no_filter_says_why() {
        for (filter, why) in [
            ("", "a column is missing at the end"),
            ("id", "a comparison is missing after `id`"),
            ("id = ", "a constant is missing at the end"),
            ("id = null", "nothing equals NULL: write `is null`"),
            ("id = name", "`name` is a column: put texts into single quotes"),
            ("(id = 1", "`)` is missing at the end"),
            ("id = 1 id = 2", "`id` follows where the filter could end"),
            ("name = 'x", "' is not closed"),
            ("id in 3", "`(` is missing before `3`"),
            ("id = 1.2.3", "`1.2.3` is no number"),
            ("id ; 1", "`;` has no meaning here"),
        ] {
            assert_eq!(filter.parse::<Filter>().unwrap_err(), why, "{filter}");
        }
        assert!("(".repeat(1000).parse::<Filter>().is_err());
        assert!("not ".repeat(1000).parse::<Filter>().is_err());
    }

    #[test]
    fn patterns_of_many_percent_signs_do_not_take_long() {
        let (text, pattern): (Vec<char>, Vec<char>) =
            ("a".repeat(5000).chars().collect(), "%a".repeat(50).chars().collect());
        assert!(is_like(&text, &pattern));
        let pattern: Vec<char> = format!("{}b", "%a".repeat(50)).chars().collect();
        assert!(!is_like(&text, &pattern));
    }
}
