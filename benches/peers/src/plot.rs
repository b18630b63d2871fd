//! Bar charts of the rows: one file per kind of workload, and one of a few rows for the README. A
//! chart has a title, the machine and the sizes; each row is a group of bars, one per store, with
//! the store's name before it and the number behind it.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::machine::Machine;
use crate::rows::{ROWS, Row, Unit};
use crate::stores::OWN;
use crate::table::{StoreColumn, Table, number};

/// The charts: file names and titles.
const CHARTS: &[(&str, &str)] = &[
    ("writes", "Writes"),
    ("reads", "Reads"),
    ("scans", "Scans"),
    ("synced", "Commits that survive power loss"),
    ("values", "Writes by length of the value"),
    ("ycsb-1", "YCSB, 1 thread"),
    ("ycsb-2", "YCSB, 2 threads"),
    ("latency", "Latency of a put"),
    ("resources", "Opening, disk and memory"),
];

/// The chart of the README: a row of each kind, also one that another store leads.
const OVERVIEW: &str = "overview";
const OVERVIEW_TITLE: &str = "Embedded stores side by side";
const OVERVIEW_ROWS: &[&str] = &["put_random", "get_uniform", "scan_1000", "ycsb_e100_2", "synced_8"];

const OWN_COLOUR: RGBColor = RGBColor(0xd9, 0x48, 0x01);
const PEER_COLOUR: RGBColor = RGBColor(0x8c, 0xa6, 0xc0);
const GREY: RGBColor = RGBColor(0x60, 0x60, 0x60);
/// Lines that separate.
const PALE: RGBColor = RGBColor(0xd8, 0xd8, 0xd8);

/// Space around the chart, in pixels.
const MARGIN: i32 = 12;
/// Width of the longest bar, in pixels.
const BAR_WIDTH: i32 = 420;
/// Height of a bar, in pixels, and of the space to the next.
const BAR_HEIGHT: i32 = 12;
const BAR_PITCH: i32 = 15;
/// Height of a line of text, in pixels.
const LINE_HEIGHT: i32 = 16;
/// Space between a bar and the texts beside it, in pixels.
const TEXT_GAP: i32 = 5;
/// Space between the groups of two rows, in pixels.
const GROUP_GAP: i32 = 10;
/// Size of the texts beside bars, in pixels.
const TEXT_SIZE: i32 = 13;
/// Width of a character, as a share of the size of its text, in usual fonts.
const CHAR_WIDTH: f64 = 0.46;

/// Writes `<name>.svg` for every chart that has numbers; the names of those.
pub(crate) fn write(table: &Table, machine: &Machine, out: &Path) -> Result<Vec<String>> {
    let mut written = Vec::new();
    let of_plot = |name: &str| ROWS.iter().filter(|row| row.plot == name).collect::<Vec<_>>();
    let overview = OVERVIEW_ROWS.iter().filter_map(|id| ROWS.iter().find(|row| row.id == *id)).collect();
    let charts = CHARTS.iter().map(|&(name, title)| (name, title, of_plot(name)));
    for (name, title, mut rows) in std::iter::once((OVERVIEW, OVERVIEW_TITLE, overview)).chain(charts) {
        rows.retain(|row: &&Row| table.stores.iter().any(|store| table.median(row.id, &store.id).is_some()));
        if rows.is_empty() {
            continue;
        }
        let chart = Chart::new(table, machine, title, &rows);
        chart.draw(&out.join(format!("{name}.svg"))).map_err(|error| anyhow!("drawing {name}: {error}"))?;
        written.push(name.to_owned());
    }
    Ok(written)
}

type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// A chart as text and lengths, before it is drawn.
struct Chart {
    title: String,
    /// The machine, the sizes, and what the marks mean.
    notes: Vec<String>,
    groups: Vec<RowBars>,
}

struct RowBars {
    title: String,
    bars: Vec<StoreBar>,
}

struct StoreBar {
    name: String,
    is_own: bool,
    /// Of the longest bar of the group; `None` where there is no number.
    share: Option<f64>,
    label: String,
}

impl Chart {
    fn new(table: &Table, machine: &Machine, title: &str, rows: &[&Row]) -> Self {
        let groups: Vec<RowBars> = rows.iter().map(|row| RowBars::new(table, row)).collect();
        Self { title: title.into(), notes: notes(table, machine, rows, &groups), groups }
    }

    fn draw(&self, path: &Path) -> Drawn {
        let names = self.groups.iter().flat_map(|group| &group.bars).map(|bar| width(&bar.name, TEXT_SIZE));
        let labels = self.groups.iter().flat_map(|group| &group.bars).map(|bar| width(&bar.label, TEXT_SIZE));
        let bars_from = MARGIN + names.max().unwrap_or(0) + TEXT_GAP;
        let bars_to = bars_from + BAR_WIDTH;
        let notes_width = self.notes.iter().map(|note| width(note, TEXT_SIZE)).max().unwrap_or(0);
        let full_width = (bars_to + TEXT_GAP + labels.max().unwrap_or(0)).max(MARGIN + notes_width) + MARGIN;
        let head = MARGIN + LINE_HEIGHT + 6 + self.notes.len() as i32 * LINE_HEIGHT;
        let full_height = head + self.groups.iter().map(RowBars::height).sum::<i32>();

        let area = SVGBackend::new(path, (full_width as u32, full_height as u32)).into_drawing_area();
        area.fill(&WHITE)?;
        let bold = ("sans-serif", 19, FontStyle::Bold).into_font();
        area.draw(&Text::new(self.title.clone(), (MARGIN, MARGIN), bold))?;
        for (place, note) in self.notes.iter().enumerate() {
            let y = MARGIN + LINE_HEIGHT + 6 + place as i32 * LINE_HEIGHT;
            let font = ("sans-serif", TEXT_SIZE).into_font().color(&GREY);
            area.draw(&Text::new(note.clone(), (MARGIN, y), font))?;
        }
        let mut top = head;
        for group in &self.groups {
            area.draw(&PathElement::new([(0, top), (full_width, top)], PALE))?;
            group.draw(top + GROUP_GAP / 2, bars_from, &area)?;
            top += group.height();
        }
        area.present()?;
        Ok(())
    }
}

impl RowBars {
    fn new(table: &Table, row: &Row) -> Self {
        let medians = table.stores.iter().filter_map(|store| table.median(row.id, &store.id));
        let most = medians.fold(f64::MIN_POSITIVE, f64::max);
        let bar = |store: &StoreColumn| {
            let value = table.median(row.id, &store.id);
            let label = value.map_or_else(
                || "—".to_owned(),
                |value| format!("{}{}", label(row.unit, value), table.stopped_mark(row.id, &store.id)),
            );
            StoreBar {
                name: format!("{}{}", store.id, store.weaker_mark(row)),
                is_own: store.id == OWN,
                share: value.map(|value| value / most),
                label,
            }
        };
        let better = if row.unit.more_is_better() { "more is better" } else { "less is better" };
        Self { title: format!("{} ({better})", row.title), bars: table.stores.iter().map(bar).collect() }
    }

    fn height(&self) -> i32 {
        GROUP_GAP + LINE_HEIGHT + self.bars.len() as i32 * BAR_PITCH
    }

    fn draw(&self, top: i32, bars_from: i32, area: &Area<'_>) -> Drawn {
        let bold = ("sans-serif", 14, FontStyle::Bold).into_font();
        area.draw(&Text::new(self.title.clone(), (MARGIN, top), bold))?;
        for (place, bar) in self.bars.iter().enumerate() {
            let y = top + LINE_HEIGHT + place as i32 * BAR_PITCH;
            let middle = y + BAR_HEIGHT / 2;
            let style = if bar.is_own { FontStyle::Bold } else { FontStyle::Normal };
            let font = || TextStyle::from(("sans-serif", TEXT_SIZE, style).into_font());
            let (before, behind) = (Pos::new(HPos::Right, VPos::Center), Pos::new(HPos::Left, VPos::Center));
            area.draw(&Text::new(bar.name.clone(), (bars_from - TEXT_GAP, middle), font().pos(before)))?;
            let length = bar.share.map_or(0, |share| ((share * f64::from(BAR_WIDTH)) as i32).max(1));
            let colour = if bar.is_own { OWN_COLOUR } else { PEER_COLOUR };
            area.draw(&Rectangle::new([(bars_from, y), (bars_from + length, y + BAR_HEIGHT)], colour.filled()))?;
            let label_at = (bars_from + length + TEXT_GAP, middle);
            area.draw(&Text::new(bar.label.clone(), label_at, font().pos(behind)))?;
        }
        Ok(())
    }
}

/// The machine, the sizes, and those marks that the chart has.
fn notes(table: &Table, machine: &Machine, rows: &[&Row], groups: &[RowBars]) -> Vec<String> {
    let keys: Vec<String> = table.keys.iter().map(|keys| number(*keys as f64)).collect();
    let sizes = if rows.iter().any(|row| row.plot == "values") {
        "values of 100 bytes unless a row says otherwise"
    } else {
        "values of 100 bytes"
    };
    let mut notes = vec![
        format!(
            "{}, {} processors, {} MiB of memory, {}, {}",
            machine.processor,
            machine.processors,
            number(machine.memory_mib as f64),
            machine.file_system,
            machine.kernel
        ),
        format!("{} keys of 16 bytes, {sizes}; medians of up to {} rounds", keys.join(" and "), table.rounds()),
    ];
    let bars = || groups.iter().flat_map(|group| &group.bars);
    let mut marks = Vec::new();
    if bars().any(|bar| bar.name.ends_with('†')) {
        marks.push("† loses returned writes when its process is killed");
    }
    if bars().any(|bar| bar.label.ends_with('‡')) {
        marks.push("‡ stopped when the time of the row was over");
    }
    if bars().any(|bar| bar.share.is_none()) {
        marks.push("— not measured");
    }
    if !marks.is_empty() {
        notes.push(marks.join("; "));
    }
    notes
}

/// About how wide a text is, in pixels.
fn width(text: &str, size: i32) -> i32 {
    (text.chars().count() as f64 * f64::from(size) * CHAR_WIDTH) as i32
}

/// A number with its unit.
fn label(unit: Unit, value: f64) -> String {
    match unit {
        Unit::PerSecond => format!("{}/s", short(value)),
        Unit::BytesPerByte => format!("{} ×", number(value)),
        unit => format!("{} {}", number(value), unit.name()),
    }
}

/// A rate in thousands or millions.
fn short(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{:.2} M", v / 1e6),
        v if v >= 1e4 => format!("{:.0} k", v / 1e3),
        v if v >= 1e3 => format!("{:.1} k", v / 1e3),
        v => format!("{v:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published() -> (Table, Machine) {
        Table::published(include_str!("../../../docs/benchmarks/peers.json")).unwrap()
    }

    fn chart(rows: &[&str]) -> Chart {
        let (table, machine) = published();
        let rows: Vec<&Row> = rows.iter().map(|id| ROWS.iter().find(|row| row.id == *id).unwrap()).collect();
        Chart::new(&table, &machine, "title", &rows)
    }

    #[test]
    fn every_row_is_in_a_chart() {
        // `beyond` has a table alone.
        for row in ROWS.iter().filter(|row| !row.id.starts_with("beyond_")) {
            assert!(CHARTS.iter().any(|(name, _)| *name == row.plot), "{}", row.id);
        }
        for id in OVERVIEW_ROWS {
            assert!(ROWS.iter().any(|row| row.id == *id), "{id}");
        }
    }

    #[test]
    fn a_mark_stands_where_it_applies_and_is_explained_there_alone() {
        let weak = |chart: &Chart| chart.groups[0].bars.iter().filter(|bar| bar.name.ends_with('†')).count();
        let explains = |chart: &Chart, mark: &str| chart.notes.iter().any(|note| note.contains(mark));
        let (writes, reads, scans) = (chart(&["delete"]), chart(&["get_uniform"]), chart(&["ycsb_e100_2"]));
        assert!(weak(&writes) > 0 && explains(&writes, "† "));
        assert!(weak(&reads) == 0 && !explains(&reads, "† "), "all stores read alike");
        let missing = scans.groups[0].bars.iter().find(|bar| bar.share.is_none()).unwrap();
        assert!(missing.label == "—" && explains(&scans, "— ") && !explains(&reads, "— "));
    }

    #[test]
    fn a_chart_names_its_machine_and_sizes_and_lies_within_its_borders() {
        let dir = std::env::temp_dir().join(format!("peers-plots-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (table, machine) = published();
        for name in write(&table, &machine, &dir).unwrap() {
            let svg = std::fs::read_to_string(dir.join(&name).with_extension("svg")).unwrap();
            for text in [&machine.processor, "keys of 16 bytes", "values of 100 bytes", "is better)"] {
                assert!(svg.contains(text), "{name} has no {text}");
            }
            let number = |part: &str| part.split('"').nth(1).unwrap().parse::<i32>().unwrap();
            let full_width = number(svg.split("width=").nth(1).unwrap());
            for x in svg.split(" x=").skip(1) {
                assert!((0..full_width).contains(&number(x)), "{name}: {x:.20}");
            }
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
