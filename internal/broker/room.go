package broker

// How full the record and its disk are, and what is kept for those that are open.

import "context"

// reservePercent is how full the store may be for new requests. The rest is for
// those that are open: each must be able to end.
const reservePercent = 80

// measureRoom sees how full the store is, and says so before it is too late; and
// how far this relay's clock is from the stream's. It gives why this relay may not
// go on with the stream, where another has upgraded it.
func (s *store) measureRoom(ctx context.Context) (outdated error) {
	s.measureDisk()
	start := s.now()
	info, err := s.stream.Info(ctx)
	if err != nil || s.most <= 0 {
		return nil
	}
	outdated = s.checkMark(ctx, info.Config)
	now := s.now()
	full := int(info.State.Bytes * 100 / uint64(s.most))
	s.mu.Lock()
	before := s.full
	s.full = full
	s.report = storeReport{at: now, bytes: info.State.Bytes, skew: start.Add(now.Sub(start) / 2).Sub(info.TimeStamp)}
	s.mu.Unlock()
	for _, mark := range []int{60, 70, reservePercent} {
		if before < mark && full >= mark {
			s.log.Warn("the store fills; from 80 percent on no new request is taken", "percent", full, "mend", "raise limits.store, or shorten limits.retention")
		}
	}
	return outdated
}

// diskReserve is what must be free on the store's disk for a new request: the rest
// is kept for those that are open, as above.
const diskReserve = 16 << 20

// measureDisk sees what the disk has free. Others write to it too, so that it may
// be full long before limits.store is reached.
func (s *store) measureDisk() {
	s.mu.Lock()
	disk := s.disk
	s.mu.Unlock()
	if disk == nil {
		return
	}
	free, known := disk()
	if !known {
		return
	}
	s.mu.Lock()
	before := s.short
	s.short = free < diskReserve
	s.filled = s.filled || free < leastFree
	short := s.short
	s.mu.Unlock()
	if short && !before {
		s.log.Error("the disk is nearly full; no new request is taken", "free", free, "mend", "make room on the disk of `data`")
	} else if before && !short {
		s.log.Info("the disk has room again", "free", free)
	}
}

// stuck says whether the disk was full and is not any more: what failed to write
// once then writes nothing more until it is opened anew.
func (s *store) stuck() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.filled && !s.short
}

// reopened says that it was.
func (s *store) reopened() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.filled = false
}

// crowded says why no new request is taken; "": it is.
func (s *store) crowded() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.full >= reservePercent:
		return "the relay's store is nearly full, and the rest is kept for requests that are open"
	case s.short:
		return "the relay's disk is nearly full, and the rest is kept for requests that are open"
	}
	return ""
}

func (s *store) room() bool { return s.crowded() == "" }
