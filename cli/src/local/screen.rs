//! What the user sees: lines, and on a terminal below them the table of members, redrawn in place.

use std::io::{IsTerminal as _, Write as _};

/// Standard output.
#[derive(Debug)]
pub(super) struct Screen {
    terminal: bool,
    colors: bool,
    /// Lines of the table that are on the terminal now.
    drawn: usize,
    table: String,
}

impl Screen {
    pub(super) fn new() -> Self {
        let terminal = std::io::stdout().is_terminal()
            && std::env::var_os("TERM").is_none_or(|it| it != "dumb");
        Self {
            terminal,
            colors: terminal && std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty()),
            drawn: 0,
            table: String::new(),
        }
    }

    /// Whether there is a table; without one, changes are told as lines.
    pub(super) fn is_terminal(&self) -> bool {
        self.terminal
    }

    pub(super) fn colors(&self) -> bool {
        self.colors
    }

    /// Adds lines above the table.
    pub(super) fn say(&mut self, text: &str) {
        let text = format!("{}{text}\n", self.erase());
        self.write(&text);
        self.draw();
    }

    /// Shows this table from now on.
    pub(super) fn show(&mut self, table: String) {
        if !self.terminal || (self.drawn > 0 && self.table == table) {
            return;
        }
        self.table = table;
        let erase = self.erase();
        self.write(&erase);
        self.draw();
    }

    /// Takes the table away.
    pub(super) fn close(&mut self) {
        let erase = self.erase();
        self.write(&erase);
        self.table.clear();
    }

    fn draw(&mut self) {
        if !self.terminal || self.table.is_empty() {
            return;
        }
        self.drawn = self.table.lines().count() + 1;
        // Lines that are wider than the terminal are cut, not wrapped, so that they can be counted.
        let text = format!("\x1b[?7l\n{}\n\x1b[?7h", self.table);
        self.write(&text);
    }

    fn erase(&mut self) -> String {
        match std::mem::take(&mut self.drawn) {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\r\x1b[J"),
        }
    }

    #[expect(clippy::unused_self, reason = "the screen is who may write")]
    fn write(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        // A reader that is gone must not end the members.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}
