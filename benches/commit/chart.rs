//! The chart: transactions a second of each contender at each number of clients, as a share of those that wait for nobody.
//!
//! Its ground is transparent, and its lines and letters are of a grey that can be read on white and on black.

use std::time::Duration;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::figures::Figures;
use crate::pgbench::Script;
use crate::situation::{Contender, Receiver, Situation};

const SIZE: (u32, u32) = (900, 440);
const GREY: RGBColor = RGBColor(125, 133, 144);

/// Who is shown, in order, and in which colour: light for `on`, where a receiver's disk is waited for, strong for what is ours.
fn colour(contender: Contender) -> Option<RGBColor> {
    match (contender.receiver, contender.level) {
        (Receiver::Original, "on") => Some(RGBColor(150, 160, 175)),
        (Receiver::Standby, "on") => Some(RGBColor(102, 153, 214)),
        (Receiver::Pgwake, "on") => Some(RGBColor(224, 123, 57)),
        (Receiver::Standby, "remote_write") => Some(RGBColor(70, 110, 175)),
        (Receiver::Pgwake, "remote_write") => Some(RGBColor(190, 80, 60)),
        _ => None,
    }
}

fn label(contender: Contender) -> String {
    let name = match contender.receiver {
        Receiver::Original => "pg_receivewal --synchronous",
        Receiver::Standby => "standby",
        Receiver::Pgwake => "pgwake receive",
        Receiver::Nobody => "nobody",
    };
    format!("{name}, {}", contender.level)
}

/// As SVG.
pub(crate) fn draw(figures: &Figures) -> String {
    let mut svg = String::new();
    draw_into(&mut svg, figures).expect("draw into a string");
    svg
}

type Failure = Box<dyn std::error::Error>;

fn draw_into(svg: &mut String, figures: &Figures) -> Result<(), Failure> {
    let situation = Situation { script: Script::Insert, delay: Duration::ZERO, slow: false };
    let contenders = situation.contenders();
    let shown: Vec<(Contender, RGBColor)> =
        contenders.iter().filter_map(|contender| Some((*contender, colour(*contender)?))).collect();
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    let text = |size: u32| ("sans-serif", size).into_font().color(&GREY);
    let centred = |size: u32| text(size).pos(Pos::new(HPos::Center, VPos::Center));
    let (head, rest) = root.split_vertically(62);
    head.draw(&Text::new(
        "Transactions a second while each commit waits for a receiver, as a share of those that wait for nobody",
        (i32::try_from(SIZE.0 / 2)?, 16),
        centred(16),
    ))?;
    // the legend, beside each other
    let mut x = 24;
    for (contender, colour) in &shown {
        head.draw(&Rectangle::new([(x, 38), (x + 12, 50)], colour.filled()))?;
        let label = label(*contender);
        head.draw(&Text::new(label.clone(), (x + 17, 38), text(13)))?;
        x += 34 + i32::try_from(label.len())? * 13 / 2;
    }
    let clients = situation.clients();
    let group_width = shown.len() as f64 + 1.0;
    let mut chart = ChartBuilder::on(&rest)
        .margin(10)
        .x_label_area_size(30)
        .y_label_area_size(50)
        .build_cartesian_2d(0.0..group_width * clients.len() as f64, 0.0..1.05)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(0)
        .y_labels(6)
        .y_label_formatter(&|share| format!("{share:.1}"))
        .axis_style(GREY)
        .bold_line_style(GREY.mix(0.35))
        .light_line_style(TRANSPARENT)
        .label_style(text(13))
        .draw()?;
    for (group, &clients) in clients.iter().enumerate() {
        let left = group as f64 * group_width;
        let Some(local) = figures.median(situation, clients, contenders[0], |run| run.tps) else { continue };
        for (bar, (contender, colour)) in shown.iter().enumerate() {
            let Some(tps) = figures.median(situation, clients, *contender, |run| run.tps) else { continue };
            let (start, share) = (left + 0.5 + bar as f64, tps / local);
            let corners = [(start + 0.06, 0.0), (start + 0.94, share)];
            chart.draw_series([Rectangle::new(corners, colour.filled())])?;
            let above = (start + 0.5, share + 0.025);
            chart.draw_series([Text::new(format!("{share:.2}"), above, centred(11))])?;
        }
        let plural = if clients == 1 { "" } else { "s" };
        let middle = chart.backend_coord(&(left + group_width / 2.0, 0.0));
        let name = format!("{clients} client{plural}: {local:.0} TPS for nobody");
        root.draw(&Text::new(name, (middle.0, middle.1 + 16), centred(13)))?;
    }
    root.present()?;
    Ok(())
}
