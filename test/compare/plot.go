// SPDX-License-Identifier: Apache-2.0

package main

import (
	"image/color"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// panels are the rows of the table that the plot shows, as two by two panels.
var panels = [2][2]string{{rowStart, rowAdd}, {rowIdleCPU, rowMemory}}

// drawPlot draws cost against the number of VFs, on logarithmic axes.
func drawPlot(file string, results []sizeResult) error {
	const width, height = 9 * vg.Inch, 7 * vg.Inch
	var plots [][]*plot.Plot
	for _, line := range panels {
		var drawn []*plot.Plot
		for _, row := range line {
			p, err := panel(row, results)
			if err != nil {
				return err
			}
			drawn = append(drawn, p)
		}
		plots = append(plots, drawn)
	}
	canvas, err := draw.NewFormattedCanvas(width, height, strings.TrimPrefix(filepath.Ext(file), "."))
	if err != nil {
		return err
	}
	const pad = vg.Inch / 4
	tiles := draw.Tiles{
		Rows: 2, Cols: 2, PadX: pad, PadY: pad, PadTop: pad, PadBottom: pad, PadLeft: pad, PadRight: pad,
	}
	for i, line := range plot.Align(plots, tiles, draw.New(canvas)) {
		for j := range line {
			plots[i][j].Draw(line[j])
		}
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := canvas.WriteTo(f); err != nil {
		return err
	}
	return f.Close()
}

// panel draws one row of the table for both plugins.
func panel(row string, results []sizeResult) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text, p.X.Label.Text = row, "VFs"
	p.BackgroundColor = color.White
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	p.Y.Tick.Marker = plot.LogTicks{Prec: -1}
	var sizes []plot.Tick
	for _, r := range results {
		sizes = append(sizes, plot.Tick{Value: float64(r.vfs), Label: strconv.Itoa(r.vfs)})
	}
	p.X.Tick.Marker = plot.ConstantTicks(sizes)
	p.Add(plotter.NewGrid())
	lowest, highest := math.Inf(1), 0.0
	blue, red := color.RGBA{R: 0x1f, G: 0x77, B: 0xb4, A: 0xff}, color.RGBA{R: 0xd6, G: 0x27, B: 0x28, A: 0xff}
	for i, c := range []color.Color{blue, red} {
		var points plotter.XYs
		for _, r := range results {
			if y, ok := r.samples[i].median(row); ok && y > 0 {
				points = append(points, plotter.XY{X: float64(r.vfs), Y: y})
				lowest, highest = min(lowest, y), max(highest, y)
			}
		}
		if len(points) == 0 {
			continue
		}
		line, marks, err := plotter.NewLinePoints(points)
		if err != nil {
			return nil, err
		}
		line.Color, line.Width, marks.Color, marks.Shape = c, vg.Points(1.5), c, draw.CircleGlyph{}
		p.Add(line, marks)
		p.Legend.Add(results[0].plugins[i], line, marks)
	}
	if highest > 0 { // whole decades, which the ticks of a logarithmic axis need
		p.Y.Min = math.Pow(10, math.Floor(math.Log10(lowest)))
		p.Y.Max = math.Pow(10, math.Ceil(math.Log10(highest*1.5)))
	} else {
		p.Y.Min, p.Y.Max = 1, 10
	}
	p.Legend.Top, p.Legend.Left = true, true
	return p, nil
}
