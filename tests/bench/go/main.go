// What tbot's diagnostics are measured against: the same endpoints as a service in Go has them, by net/http and
// client_golang, with the collectors of its default registry.
package main

import (
	"flag"
	"log"
	"math"
	"net/http"
	"os"
	"sort"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

// replica is a family of metrics of another program, counted and described by real collectors of this one.
type replica struct {
	collector prometheus.Collector
	series    int
}

// like makes a collector for each series of a family until there are `room` lines of text.
func like(family *dto.MetricFamily, room int) replica {
	metrics := family.GetMetric()
	var names []string
	for _, pair := range metrics[0].GetLabel() {
		names = append(names, pair.GetName())
	}
	labels := func(metric *dto.Metric) prometheus.Labels {
		labels := prometheus.Labels{}
		for _, pair := range metric.GetLabel() {
			labels[pair.GetName()] = pair.GetValue()
		}
		return labels
	}
	name, help := family.GetName(), family.GetHelp()
	series := 0
	switch family.GetType() {
	case dto.MetricType_COUNTER:
		vector := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, names)
		for ; series < len(metrics) && series < room; series++ {
			vector.With(labels(metrics[series])).Add(metrics[series].GetCounter().GetValue())
		}
		return replica{vector, series}
	case dto.MetricType_HISTOGRAM:
		buckets := finite(metrics[0].GetHistogram())
		vector := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, names)
		for _, metric := range metrics {
			if series < room {
				vector.With(labels(metric)).Observe(0.001)
				series += len(buckets) + 3
			}
		}
		return replica{vector, series}
	default:
		vector := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, names)
		for ; series < len(metrics) && series < room; series++ {
			vector.With(labels(metrics[series])).Set(metrics[series].GetGauge().GetValue())
		}
		return replica{vector, series}
	}
}

// finite has the bounds of a histogram's buckets but the last one, which some leave out.
func finite(histogram *dto.Histogram) []float64 {
	var bounds []float64
	for _, bucket := range histogram.GetBucket() {
		if !math.IsInf(bucket.GetUpperBound(), 1) {
			bounds = append(bounds, bucket.GetUpperBound())
		}
	}
	return bounds
}

// lines is how many series a scrape of these families has.
func lines(families []*dto.MetricFamily) int {
	count := 0
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			switch {
			case metric.GetHistogram() != nil:
				count += len(finite(metric.GetHistogram())) + 3
			case metric.GetSummary() != nil:
				count += len(metric.GetSummary().GetQuantile()) + 2
			default:
				count++
			}
		}
	}
	return count
}

func main() {
	address := flag.String("address", "127.0.0.1:0", "where to listen")
	model := flag.String("like", "", "text of /metrics: as many series as this has, of the same kinds")
	flag.Parse()

	if *model != "" {
		file, err := os.Open(*model)
		if err != nil {
			log.Fatal(err)
		}
		var parser expfmt.TextParser
		families, err := parser.TextToMetricFamilies(file)
		if err != nil {
			log.Fatal(err)
		}
		var all []*dto.MetricFamily
		for _, family := range families {
			all = append(all, family)
		}
		sort.Slice(all, func(a, b int) bool { return all[a].GetName() < all[b].GetName() })
		own, err := prometheus.DefaultGatherer.Gather()
		if err != nil {
			log.Fatal(err)
		}
		room := lines(all) - lines(own)
		for _, family := range all {
			if room > 0 {
				replica := like(family, room)
				// Refused are those that this program has of itself, such as its process's.
				if prometheus.Register(replica.collector) == nil {
					room -= replica.series
				}
			}
		}
	}

	routes := http.NewServeMux()
	routes.HandleFunc("/livez", func(answer http.ResponseWriter, _ *http.Request) {
		answer.Header().Set("Content-Type", "text/plain; charset=utf-8")
		answer.WriteHeader(http.StatusOK)
		answer.Write([]byte("OK"))
	})
	routes.Handle("/metrics", promhttp.Handler())
	log.Fatal(http.ListenAndServe(*address, routes))
}
