//go:build clients

package broker

// The storm at its full size: too much for each run of the suite under the race
// detector.

import "testing"

// With nats-server's own time limit for authentication two thirds of so many are
// refused: it counts the time in the queue before the callout.
func TestThreeThousandJobsAtOnceAreAllLetIn(t *testing.T) {
	storm(t, startFixture(t), 3000)
}
