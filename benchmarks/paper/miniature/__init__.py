"""The paper's fig. 7, 10, 11 and 12 in miniature: measured by real launches on CPU ranks.

Read first: `places.places_of`, `measure.measure_place`, `result.MeasuredFigure`.
"""
