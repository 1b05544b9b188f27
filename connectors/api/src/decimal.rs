//! Arbitrary-precision decimals as Connect's logical type has them: an unscaled integer (big-endian two's complement)
//! and a scale. Converters read and write them as text; nobody computes with them.
//!
//! Text forms are those of `java.math.BigDecimal`. No input costs more than its own length: an exponent is kept as
//! scale and never written out, and numbers beyond ten thousand digits are refused.

use std::fmt;

/// A decimal: its digits without sign and leading zeros, times ten to the power of `-scale`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decimal {
    negative: bool,
    /// Most significant first; `[0]` for zero.
    digits: Vec<u8>,
    scale: i32,
}

const MAX_DIGITS: usize = 10_000;
const MAX_BYTES: usize = 4_096;

impl Decimal {
    /// Of an unscaled value in big-endian two's complement; `None` where it is too long to be one.
    pub fn from_bytes(bytes: &[u8], scale: i32) -> Option<Self> {
        if bytes.len() > MAX_BYTES {
            return None;
        }
        let negative = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
        let mut magnitude = bytes.to_vec();
        if negative {
            negate(&mut magnitude);
        }
        let mut digits = Vec::new();
        while magnitude.iter().any(|byte| *byte != 0) {
            let mut remainder = 0;
            for byte in &mut magnitude {
                let value = remainder * 256 + u16::from(*byte);
                *byte = (value / 10) as u8;
                remainder = value % 10;
            }
            digits.push(remainder as u8);
        }
        digits.reverse();
        Some(Self::normal(negative, digits, scale))
    }

    /// Reads a sign, digits with or without a point, and an exponent; `None` where that is not all.
    pub fn parse(text: &str) -> Option<Self> {
        let (negative, text) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if !(1..=MAX_DIGITS).contains(&(whole.len() + fraction.len())) || !all_digits(whole) || !all_digits(fraction) {
            return None;
        }
        let scale = i32::try_from(fraction.len()).ok()?.checked_sub(exponent)?;
        let digits = whole.bytes().chain(fraction.bytes()).map(|byte| byte - b'0').collect();
        Some(Self::normal(negative, digits, scale))
    }

    fn normal(negative: bool, mut digits: Vec<u8>, scale: i32) -> Self {
        let zeros = digits.iter().take_while(|digit| **digit == 0).count();
        digits.drain(..zeros);
        if digits.is_empty() {
            digits.push(0);
        }
        let negative = negative && digits != [0];
        Self { negative, digits, scale }
    }

    /// How many digits stand behind the point.
    pub fn scale(&self) -> i32 {
        self.scale
    }

    /// True where it is zero.
    pub fn is_zero(&self) -> bool {
        self.digits == [0]
    }

    /// The power of ten of its first digit: 0 for 1 to 9. Of zero it says nothing.
    pub fn magnitude(&self) -> i64 {
        self.digits.len() as i64 - 1 - i64::from(self.scale)
    }

    /// The unscaled value in big-endian two's complement, as short as it goes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut magnitude: Vec<u8> = Vec::new(); // least significant first
        for digit in &self.digits {
            let mut carry = u16::from(*digit);
            for byte in &mut magnitude {
                let value = u16::from(*byte) * 10 + carry;
                *byte = value as u8;
                carry = value >> 8;
            }
            if carry > 0 {
                magnitude.push(carry as u8);
            }
        }
        magnitude.push(0);
        magnitude.reverse();
        if self.negative {
            negate(&mut magnitude);
        }
        let redundant = |pair: &[u8]| matches!((pair[0], pair[1] >> 7), (0, 0) | (0xff, 1));
        let spare = magnitude.windows(2).take_while(|pair| redundant(pair)).count();
        magnitude.drain(..spare);
        magnitude
    }

    /// The same number with another scale; `None` where digits would be lost, or more than a thousand added.
    pub fn rescaled(&self, scale: i32) -> Option<Self> {
        let added = i64::from(scale) - i64::from(self.scale);
        let mut digits = self.digits.clone();
        if !self.is_zero() && added > 0 {
            digits.resize(digits.len() + usize::try_from(added).ok().filter(|added| *added <= 1000)?, 0);
        }
        if !self.is_zero() && added < 0 {
            let kept = digits.len().checked_sub(usize::try_from(-added).ok()?)?;
            if digits.drain(kept..).any(|digit| digit != 0) {
                return None;
            }
        }
        Some(Self::normal(self.negative, digits, scale))
    }

    /// The whole part, where it fits.
    pub fn to_i64(&self) -> Option<i64> {
        if self.is_zero() || self.magnitude() < 0 {
            return Some(0);
        }
        let len = usize::try_from(self.magnitude() + 1).ok().filter(|len| *len <= 19)?;
        let digits = self.digits.iter().copied().chain(std::iter::repeat(0)).take(len);
        let number = digits.fold(0i128, |number, digit| number * 10 + i128::from(digit));
        i64::try_from(if self.negative { -number } else { number }).ok()
    }

    /// True where no digit other than zero stands behind the point.
    pub fn is_whole(&self) -> bool {
        let behind = usize::try_from(self.scale).unwrap_or(0).min(self.digits.len());
        self.digits[self.digits.len() - behind..].iter().all(|digit| *digit == 0)
            && (self.is_zero() || usize::try_from(self.scale).unwrap_or(0) <= self.digits.len())
    }
}

/// As `BigDecimal.toString`: plain where the scale is not negative and the number not tiny, else with an exponent.
impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits: String = self.digits.iter().map(|digit| char::from(b'0' + digit)).collect();
        if self.negative {
            f.write_str("-")?;
        }
        let exponent = self.magnitude();
        if self.scale < 0 || exponent < -6 {
            let (first, rest) = digits.split_at(1);
            let point = if rest.is_empty() { "" } else { "." };
            return match exponent {
                0 => write!(f, "{first}{point}{rest}"),
                exponent => write!(f, "{first}{point}{rest}E{exponent:+}"),
            };
        }
        let scale = usize::try_from(self.scale).unwrap_or(0);
        match digits.len().checked_sub(scale) {
            _ if scale == 0 => f.write_str(&digits),
            Some(0) | None => write!(f, "0.{digits:0>scale$}"),
            Some(whole) => write!(f, "{}.{}", &digits[..whole], &digits[whole..]),
        }
    }
}

fn negate(bytes: &mut [u8]) {
    let mut carry = true;
    for byte in bytes.iter_mut().rev() {
        let (value, overflow) = (!*byte).overflowing_add(u8::from(carry));
        *byte = value;
        carry = carry && overflow;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What `new BigDecimal(text).toString()` and `unscaledValue().toByteArray()` give.
    #[test]
    fn reads_and_shows_as_java_does() {
        let cases: [(&str, &str, i32, &[u8]); 12] = [
            ("0", "0", 0, &[0]),
            ("-0.00", "0.00", 2, &[0]),
            ("1.50", "1.50", 2, &[0, 150]),
            ("-1", "-1", 0, &[0xff]),
            ("128", "128", 0, &[0, 128]),
            ("-128", "-128", 0, &[128]),
            ("+007", "7", 0, &[7]),
            ("1e3", "1E+3", -3, &[1]),
            ("12.5E-10", "1.25E-9", 11, &[125]),
            ("0.000001", "0.000001", 6, &[1]),
            ("0.0000001", "1E-7", 7, &[1]),
            ("9223372036854775808", "9223372036854775808", 0, &[0, 128, 0, 0, 0, 0, 0, 0, 0]),
        ];
        for (text, shown, scale, bytes) in cases {
            let decimal = Decimal::parse(text).unwrap();
            assert_eq!((decimal.to_string().as_str(), decimal.scale()), (shown, scale), "{text}");
            assert_eq!(decimal.to_bytes(), bytes, "{text}");
        }
        for text in ["", "-", ".", "1x", "1e", "e5", "1e99999999999", "--1", "1.2.3", " 1"] {
            assert_eq!(Decimal::parse(text), None, "{text}");
        }
    }

    #[test]
    fn rescales_without_loss_only() {
        let decimal = Decimal::parse("1.50").unwrap();
        assert_eq!(decimal.rescaled(1).unwrap().to_string(), "1.5");
        assert_eq!(decimal.rescaled(4).unwrap().to_string(), "1.5000");
        assert_eq!(decimal.rescaled(0), None);
        assert_eq!(Decimal::parse("1e2000000000").unwrap().rescaled(0), None);
    }

    #[test]
    fn tells_its_whole_part() {
        let whole = |text: &str| (Decimal::parse(text).unwrap().to_i64(), Decimal::parse(text).unwrap().is_whole());
        assert_eq!(whole("-9223372036854775808"), (Some(i64::MIN), true));
        assert_eq!(whole("9223372036854775808"), (None, true));
        assert_eq!(whole("1e3"), (Some(1000), true));
        assert_eq!(whole("12.00"), (Some(12), true));
        assert_eq!(whole("12.34"), (Some(12), false));
        assert_eq!(whole("0.001"), (Some(0), false));
        assert_eq!(whole("1e999"), (None, true));
    }

    proptest! {
        #[test]
        fn bytes_and_text_agree(number: i128, scale in -40..40i32) {
            let decimal = Decimal::from_bytes(&number.to_be_bytes(), scale).unwrap();
            prop_assert_eq!(&Decimal::from_bytes(&decimal.to_bytes(), scale).unwrap(), &decimal);
            prop_assert_eq!(&Decimal::parse(&decimal.to_string()).unwrap(), &decimal);
            prop_assert_eq!(Decimal::from_bytes(&number.to_be_bytes(), 0).unwrap().to_string(), number.to_string());
        }
    }
}
