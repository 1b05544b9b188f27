//! The results as a picture that a browser draws: bars of MB per core-second, data set by data set.

use std::fmt::Write as _;

use crate::lines::{ARCHIVING, LIMIT_OF_ARCHIVING, LIMIT_OF_RESTORING, Median, PEER, RESTORING};

const WIDTH: f64 = 760.0;
const LEFT: f64 = 230.0;
const RIGHT: f64 = 90.0;
const BAR: f64 = 18.0;
const GAP: f64 = 26.0;

/// The chart of `medians`, measured on `machine`.
pub(crate) fn svg(medians: &[Median], machine: &str) -> String {
    let shown: Vec<&Median> = medians.iter().filter(|median| colour(&median.program).is_some()).collect();
    let most = shown.iter().map(|median| median.mb_per_core_s).fold(1.0, f64::max);
    let (mut body, mut top, mut data) = (String::new(), 48.0, "");
    for median in shown {
        if median.data != data {
            top += GAP;
            data = &median.data;
            let _ = writeln!(body, r#"<text x="8" y="{:.0}" class="data">{data}</text>"#, top - 6.0);
        }
        let width = (WIDTH - LEFT - RIGHT) * median.mb_per_core_s / most;
        let (text, fill) = (top + BAR * 0.72, colour(&median.program).unwrap_or_default());
        let _ = writeln!(body, r#"<text x="{:.0}" y="{text:.0}" class="name">{}</text>"#, LEFT - 8.0, median.program);
        let height = BAR - 4.0;
        let _ = writeln!(
            body,
            r#"<rect x="{LEFT:.0}" y="{top:.0}" width="{width:.0}" height="{height:.0}" fill="{fill}"/>"#
        );
        let value = LEFT + width + 6.0;
        let _ = writeln!(body, r#"<text x="{value:.0}" y="{text:.0}">{:.0}</text>"#, median.mb_per_core_s);
        top += BAR;
    }
    let height = top + 16.0;
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:.0} {height:.0}" font-family="sans-serif" font-size="12">
<style>text {{ fill: #333 }} .name {{ text-anchor: end }} .data {{ font-weight: bold }}</style>
<rect width="100%" height="100%" fill="#fff"/>
<text x="8" y="20" font-size="15">MB of keys and values per core-second</text>
<text x="8" y="38">{machine}</text>
{body}</svg>
"##
    )
}

fn colour(program: &str) -> Option<&'static str> {
    match program {
        LIMIT_OF_ARCHIVING | LIMIT_OF_RESTORING => Some("#b9c2cc"),
        PEER => Some("#d98b4a"),
        _ if program.starts_with(ARCHIVING) => Some("#2f6f9f"),
        _ if program.starts_with(RESTORING) => Some("#3f8f6f"),
        _ => None,
    }
}
