package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
)

var (
	outputFlag = &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "table", Usage: "`FORMAT`: table or json"}
	bodyFlag   = &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "text", Usage: "`FORMAT`: text, which is bodies, one a line; or json, objects, one a line"}

	// outputs are the formats that -o may name.
	outputs = map[cli.Flag][]string{outputFlag: {"table", "json"}, bodyFlag: {"text", "json"}}
)

// table is what a command prints: rows under headings, or the same as JSON
// objects, whose keys are the headings. A time that is none, and nil, are - or null.
type table struct {
	headings []string
	rows     [][]any
}

func newTable(headings ...string) *table { return &table{headings: headings} }

func (t *table) add(cells ...any) { t.rows = append(t.rows, cells) }

// print writes the table as the -o flag says.
func (t *table) print(c *cli.Context) error {
	if c.String("output") == "json" {
		return printJSON(c.App.Writer, t.objects())
	}
	return t.text(c.App.Writer)
}

func (t *table) text(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, strings.Join(t.headings, "\t"))
	for _, row := range t.rows {
		for i, cell := range row {
			if i > 0 {
				fmt.Fprint(tw, "\t")
			}
			fmt.Fprint(tw, cellText(cell))
		}
		fmt.Fprintln(tw)
	}
	return tw.Flush()
}

func cellText(v any) string {
	switch v := v.(type) {
	case nil:
		return "-"
	case float64:
		return fmt.Sprintf("%.1f", v)
	case time.Duration:
		return v.Round(10 * time.Microsecond).String()
	case bool:
		if v {
			return "yes"
		}
		return "no"
	case time.Time:
		if v.IsZero() {
			return "-"
		}
		return v.Format(time.DateTime)
	case string:
		if v == "" {
			return "-"
		}
	}
	return fmt.Sprint(v)
}

// objects are the rows as JSON has them.
func (t *table) objects() []map[string]any {
	rows := make([]map[string]any, 0, len(t.rows))
	for _, row := range t.rows {
		m := map[string]any{}
		for i, cell := range row {
			switch v := cell.(type) {
			case time.Duration:
				cell = float64(v) / float64(time.Millisecond)
			case time.Time:
				if v.IsZero() {
					cell = nil
				}
			}
			m[jsonKey(t.headings[i])] = cell
		}
		rows = append(rows, m)
	}
	return rows
}

// printJSON writes what no table is.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// listCell is a list in a table: by spaces in text, a list in JSON, also if it
// is empty.
type listCell []string

func (l listCell) String() string {
	if len(l) == 0 {
		return "-"
	}
	return strings.Join(l, " ")
}

// MarshalJSON writes a list that is nil as one that is empty.
func (l listCell) MarshalJSON() ([]byte, error) { return json.Marshal(append([]string{}, l...)) }

// jsonKey turns a heading into a key: "longest gap" is longestGap, "msg/s"
// msgPerS.
func jsonKey(heading string) string {
	words := strings.Fields(strings.ReplaceAll(strings.ToLower(heading), "/", " per "))
	for i := 1; i < len(words); i++ {
		words[i] = strings.ToUpper(words[i][:1]) + words[i][1:]
	}
	return strings.Join(words, "")
}

// progress shows how far long work is, on a terminal only.
type progress struct {
	w     io.Writer
	shown time.Time
	begun time.Time
	what  string
	width int
}

func newProgress(what string) *progress {
	p := &progress{begun: time.Now(), what: what}
	if info, err := os.Stderr.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
		p.w = os.Stderr
	}
	return p
}

// show says how much is done, of a total if that is known.
func (p *progress) show(n, total int64) {
	if p.w == nil || time.Since(p.shown) < 200*time.Millisecond {
		return
	}
	p.shown = time.Now()
	rate := float64(n) / max(time.Since(p.begun).Seconds(), 0.001)
	line := fmt.Sprintf("%s %d  %.0f/s", p.what, n, rate)
	if total > 0 {
		line = fmt.Sprintf("%s %d of %d (%d%%)  %.0f/s", p.what, n, total, n*100/total, rate)
	}
	p.width = max(p.width, len(line))
	fmt.Fprintf(p.w, "\r%-*s", p.width, line)
}

// done takes the line away.
func (p *progress) done() {
	if p.w != nil && p.width > 0 {
		fmt.Fprintf(p.w, "\r%*s\r", p.width, "")
	}
}
