//! `report.html`: one file that needs nothing else.

use std::path::Path;

use super::chart::chart_html;
use super::data::{Chart, Picture, ReportData};
use super::gallery::{Gallery, gallery};
use super::html::{drawing_uri, escape, script_json};
use super::metric_html::metric_table;
use super::{ReportError, atomic};
use crate::draw::{INFERNO, WEAKEST_LEVEL};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
/// The number of method colours in `page.css`, `.m0` to `.m7`.
const PALETTE_LEN: usize = 8;
/// The browser itself is told to fetch nothing.
const POLICY: &str = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// The page as text.
///
/// # Errors
/// When a picture cannot be encoded, or a gallery item's weights do not fit its grid or its caption.
pub fn render_html(data: &ReportData) -> Result<String, ReportError> {
    let colour_of = |method: &str| colour_of(&data.methods, method);
    let Gallery { cards, data: weights } = gallery(&data.gallery, colour_of)?;
    let sections: String =
        [results(data), curves(&data.curves, colour_of), alignment(&cards), pictures(&data.pictures)?, commands(data)]
            .concat();
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\" class=\"no-js\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<link rel=\"icon\" href=\"data:,\">\n\
         <title>{title}</title>\n<style>\n{STYLE}{legend}</style>\n</head>\n<body>\n{header}\
         <main>\n{sections}</main>\n<p class=\"unseen\" id=\"live\" aria-live=\"polite\"></p>\n\
         <script type=\"application/json\" id=\"weights\">{json}</script>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n",
        title = escape(&data.title),
        legend = legend_style(),
        header = header(data),
        json = script_json(&weights),
    ))
}

/// Writes the page, whole or not at all.
///
/// # Errors
/// Those of [`render_html`], and when the file cannot be written.
pub fn write_report(path: &Path, data: &ReportData) -> Result<(), ReportError> {
    atomic::write(path, render_html(data)?.as_bytes())
}

/// A method's place in the palette; unknown ones share the place after the last.
fn colour_of(methods: &[String], method: &str) -> usize {
    methods.iter().position(|name| name == method).unwrap_or(methods.len()) % PALETTE_LEN
}

fn header(data: &ReportData) -> String {
    let facts: String = data
        .facts
        .iter()
        .map(|(name, value)| format!("<div><dt>{}</dt><dd>{}</dd></div>\n", escape(name), escape(value)))
        .collect();
    let facts = if facts.is_empty() { facts } else { format!("<dl class=\"facts\">\n{facts}</dl>\n") };
    let subtitle = if data.subtitle.is_empty() {
        String::new()
    } else {
        format!("<p class=\"lead\">{}</p>\n", escape(&data.subtitle))
    };
    format!("<header>\n<h1>{}</h1>\n{subtitle}{facts}</header>\n", escape(&data.title))
}

fn results(data: &ReportData) -> String {
    if data.metrics.is_empty() {
        return String::new();
    }
    let table = metric_table(&data.methods, &data.metrics, PALETTE_LEN);
    let mut legend = "The best value of each row is bold. Bars run from 0 to 100 %.".to_owned();
    if data.metrics.iter().any(|row| row.intervals.iter().any(Option::is_some)) {
        legend += " Below a value, and dark on its bar, is its 95 % interval, images being resampled.";
    }
    section("results", "Results", &legend, &table)
}

fn curves(charts: &[Chart], colour_of: impl Fn(&str) -> usize) -> String {
    if charts.is_empty() {
        return String::new();
    }
    let figures: String = charts.iter().map(|chart| chart_html(chart, &colour_of)).collect();
    let lead = "Strong lines are smoothed; the faint ones behind them are the values themselves.";
    section("curves", "Curves", lead, &format!("<div class=\"charts\">\n{figures}</div>\n"))
}

fn alignment(cards: &str) -> String {
    if cards.is_empty() {
        return String::new();
    }
    let tools = "<noscript><p class=\"notice\">The heatmaps need JavaScript; without it the images and \
         captions are shown plain. Everything else on this page works without.</p></noscript>\n\
         <div class=\"tools\"><div class=\"legend\"><span class=\"left-out\"></span>left out\
         <span class=\"spacer\"></span>weak<span class=\"ramp\"></span>strongest</div>\n\
         <button type=\"button\" id=\"patches\" aria-pressed=\"false\">Show patch borders</button></div>\n";
    let lead = "Point at, focus or tap a word to see the patches it is aligned with. \
         <kbd>←</kbd> <kbd>→</kbd> move between the tokens, <kbd>Esc</kbd> or a second tap clears. \
         Colours are relative to the token’s strongest patch.";
    section("alignment", "Where each word looks", lead, &format!("{tools}<div class=\"gallery\">\n{cards}</div>\n"))
}

fn pictures(pictures: &[Picture]) -> Result<String, ReportError> {
    if pictures.is_empty() {
        return Ok(String::new());
    }
    let mut figures = String::new();
    for picture in pictures {
        figures.push_str(&format!(
            "<figure class=\"picture\"><img src=\"{}\" alt=\"{title}\" width=\"{}\" height=\"{}\">\
             <figcaption><h3>{title}</h3><p>{}</p></figcaption></figure>\n",
            drawing_uri(&picture.title, &picture.image)?,
            picture.image.width(),
            picture.image.height(),
            escape(&picture.text),
            title = escape(&picture.title),
        ));
    }
    Ok(section("pictures", "Examples", "", &format!("<div class=\"pictures\">\n{figures}</div>\n")))
}

fn commands(data: &ReportData) -> String {
    if data.commands.is_empty() {
        return String::new();
    }
    let lines: String = data.commands.iter().map(|command| format!("<code>{}</code>\n", escape(command))).collect();
    section("commands", "How this was made", "", &format!("<pre>{lines}</pre>\n"))
}

/// One section; `lead` and `body` are HTML.
fn section(id: &str, title: &str, lead: &str, body: &str) -> String {
    let lead = if lead.is_empty() { String::new() } else { format!("<p class=\"lead\">{lead}</p>\n") };
    format!(
        "<section id=\"{id}\" aria-labelledby=\"{id}-title\">\n<h2 id=\"{id}-title\">{title}</h2>\n{lead}{body}</section>\n"
    )
}

/// The legend's colours, from the same table as the heatmaps'.
fn legend_style() -> String {
    let first = (255.0 * WEAKEST_LEVEL) as usize;
    let stops: Vec<String> =
        (0..=8).map(|step| format!("#{:06x}", INFERNO[first + step * (255 - first) / 8])).collect();
    format!(".ramp{{background:linear-gradient(90deg,{})}}\n", stops.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{GalleryItem, MethodHeatmaps, MetricRow, Series};
    use image::RgbImage;

    fn full() -> ReportData {
        let item = |index: usize| GalleryItem {
            image: RgbImage::new(32, 32),
            key: format!("sample{index}"),
            grid: (2, 2),
            token_pieces: vec!["▁a".to_owned(), "▁</script><b>".to_owned(), "dog".to_owned()],
            heatmaps: ["CLIP", "SPARC"]
                .map(|method| MethodHeatmaps { method: method.to_owned(), weights: vec![vec![0.1; 4]; 3] })
                .to_vec(),
            note: "a <note>".to_owned(),
        };
        ReportData {
            title: "SPARC & CLIP </title><script>alert(1)</script>".to_owned(),
            subtitle: "a \"subtitle\"".to_owned(),
            commands: vec!["sparc demo --set 'a<b'".to_owned()],
            facts: vec![("steps".to_owned(), "300".to_owned())],
            methods: vec!["CLIP".to_owned(), "SPARC".to_owned()],
            metrics: vec![MetricRow::new("zeroshot_acc1", vec![Some(0.1), Some(0.2)])],
            curves: vec![Chart {
                title: "loss".to_owned(),
                x_label: "step".to_owned(),
                y_label: "loss".to_owned(),
                log_y: false,
                series: vec![Series { method: "CLIP".to_owned(), points: vec![(0.0, 2.0), (1.0, 1.0)] }],
            }],
            gallery: (0..4).map(item).collect(),
            pictures: vec![Picture { title: "masks".to_owned(), image: RgbImage::new(8, 8), text: "<i>".to_owned() }],
        }
    }

    #[test]
    fn text_from_outside_is_escaped() {
        let html = render_html(&full()).unwrap();
        assert!(!html.contains("<script>alert") && !html.contains("<note>") && !html.contains("<i>\n"));
        assert!(html.contains("a&lt;b") && html.contains("&lt;/script&gt;&lt;b&gt;"));
        assert_eq!(html.matches("</script>").count(), 2, "the weights and the program, and nothing else");
    }

    #[test]
    fn page_refers_to_nothing_outside_itself() {
        let html = render_html(&full()).unwrap();
        for attribute in ["src=\"", "href=\""] {
            let outside = html.split(attribute).skip(1).filter(|rest| !rest.starts_with("data:")).count();
            assert_eq!(outside, 0, "{attribute} must hold a data: URI");
        }
        for marker in ["http:", "https:", "url(", "@import", "fetch(", "XMLHttpRequest"] {
            assert!(!html.contains(marker), "the page holds `{marker}`");
        }
    }

    #[test]
    fn weights_in_the_page_are_json_with_every_token() {
        let html = render_html(&full()).unwrap();
        let json = html.split("id=\"weights\">").nth(1).unwrap().split("</script>").next().unwrap();
        let weights: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!(weights["items"].as_array().unwrap().len(), 4);
        assert_eq!(weights["items"][3]["tokens"][1], "</script><b>");
        assert_eq!(html.matches("data-token=").count(), 4 * 3);
    }

    #[test]
    fn empty_sections_are_left_out() {
        let html = render_html(&ReportData { title: "nothing".to_owned(), ..ReportData::default() }).unwrap();
        assert!(!html.contains("<section") && !html.contains("<dl"));
        assert!(html.contains("<h1>nothing</h1>"));
    }

    #[test]
    fn tags_are_balanced() {
        let html = render_html(&full()).unwrap();
        for tag in ["section", "figure", "article", "div", "span", "p", "table", "tr", "td", "svg", "main", "header"] {
            let open = html.matches(&format!("<{tag} ")).count() + html.matches(&format!("<{tag}>")).count();
            assert_eq!(open, html.matches(&format!("</{tag}>")).count(), "<{tag}>");
        }
    }

    #[test]
    fn report_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.html");
        write_report(&path, &full()).unwrap();
        assert!(std::fs::read_to_string(path).unwrap().ends_with("</html>\n"));
    }
}
