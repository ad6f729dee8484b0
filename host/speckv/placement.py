"""Where contexts lie in the address window: a first-fit list of free granules."""

from .errors import WindowFull


class Placement:
    """Places contexts in a window of `granules` granules of `granule_pages` pages each."""

    def __init__(self, granules, granule_pages):
        self.granule_pages = granule_pages
        self._free = [(0, granules)]

    @property
    def free_pages(self):
        """Pages not taken, in all free ranges together."""
        return sum(count for _, count in self._free) * self.granule_pages

    @property
    def largest_free_pages(self):
        """Pages of the largest free range: the largest context that can still be placed."""
        return max((count for _, count in self._free), default=0) * self.granule_pages

    def allocate(self, pages):
        """Takes the first free range that holds `pages`, rounded up to granules: (first page, pages taken).

        Raises `WindowFull` where there is none.
        """
        wanted = -(-pages // self.granule_pages)
        for i, (first, count) in enumerate(self._free):
            if count >= wanted:
                self._free[i:i + 1] = [(first + wanted, count - wanted)] if count > wanted else []
                return first * self.granule_pages, wanted * self.granule_pages
        raise WindowFull(wanted * self.granule_pages, self.largest_free_pages, self.free_pages)

    def free(self, first_page, pages):
        """Gives a range that `allocate` returned back, merged with the free ranges next to it."""
        merged = []
        for first, count in sorted(
            [*self._free, (first_page // self.granule_pages, pages // self.granule_pages)]
        ):
            if merged and sum(merged[-1]) == first:
                merged[-1] = (merged[-1][0], merged[-1][1] + count)
            else:
                merged.append((first, count))
        self._free = merged
