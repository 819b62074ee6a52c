"""Paints a photo of a synthetic person.

A face is a dome with a relief (nose, sockets, cheeks, lips), lit by one lamp, with colours from
inherited traits. Every photo has its own pose, expression, light, white balance, blur and
background, so that kinship shows in the features and not in one colour.

Lengths are in half heights of a head: the origin is between the eyes, x points right and y down,
and the chin is near y = 1. Colours are linear light, and arrays of colours are (3, H, W).
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from kinembed.synthetic.people import Person, Rng

Plane = NDArray[np.float32]


class Shot:
    """The differences between photos of one person: pose, expression, light and camera."""

    def __init__(self, rng: Rng) -> None:
        self.centre = (rng.normal(0, 0.04), rng.normal(0.03, 0.04))
        self.scale = rng.uniform(0.80, 0.94)
        self.yaw = min(0.35, max(-0.35, rng.normal(0, 0.14)))
        self.pitch = min(0.16, max(-0.16, rng.normal(0, 0.08)))
        self.roll = rng.normal(0, 0.07)
        self.smile = rng.uniform(-0.1, 1.0)
        self.mouth_open = max(0.0, rng.uniform(-0.7, 0.9))
        self.brow_raise = rng.normal(0, 0.02)
        self.lids = rng.uniform(0.78, 1.08)
        self.gaze = rng.normal(0, 0.015)
        self.glasses = bool(rng.random() < 0.7)
        lamp = np.array([rng.uniform(-0.75, 0.75), rng.uniform(-0.75, -0.1), rng.uniform(0.6, 1)])
        self.lamp = (lamp / np.linalg.norm(lamp)).astype(np.float32)
        self.ambient = rng.uniform(0.25, 0.6)
        warmth, tint = rng.normal(0, 0.07), rng.normal(0, 0.03)
        self.light = _channels(1 + warmth, 1 + tint, 1 - warmth)
        self.white = np.exp(rng.normal(0, 0.18) + rng.normal(0, 0.06, (3, 1, 1)))
        self.blur = max(0.0, rng.uniform(-0.6, 1.1))
        self.noise = rng.uniform(0.0, 0.02)
        self.grey = bool(rng.random() < 0.06)


def _channels(*values: float) -> Plane:
    """Returns numbers, one per colour channel, as (3, 1, 1)."""
    return np.array(values, np.float32).reshape(3, 1, 1)


def _rgb(red: float, green: float, blue: float) -> Plane:
    """Returns a display colour, 0 to 1, in linear light as (3, 1, 1); squared as gamma."""
    return _channels(red, green, blue) ** 2


def _blend(first: Plane, second: Plane, fraction: float) -> Plane:
    """Returns the colour at a fraction, 0 to 1, of the way from the first to the second."""
    return (first + (second - first) * np.float32(np.clip(fraction, 0, 1))).astype(np.float32)


def _paint(canvas: Plane, colour: Plane, cover: Plane) -> None:
    """Paints a colour over the canvas, in place, where the cover (H, W) is above 0."""
    rows = np.flatnonzero(cover.max(1) > 0.004)
    columns = np.flatnonzero(cover.max(0) > 0.004)
    if len(rows) and len(columns):  # most strokes are small: leave the rest of the canvas alone
        box = np.s_[..., rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        spot = colour[box] if colour.shape[-1] > 1 else colour
        canvas[box] += cover[box] * (spot - canvas[box])


def _bump(x: Plane, y: Plane, width: float, height: float) -> Plane:
    """Returns a Gaussian bump of height 1 at the origin."""
    return np.exp(-((x * (1 / width)) ** 2) - (y * (1 / height)) ** 2)


def _step(x: Plane, start: float, end: float) -> Plane:
    """Rises smoothly from 0 at the start to 1 at the end (or falls, if the end comes first)."""
    t: Plane = ((x - start) * (1 / (end - start))).clip(0, 1)
    return t * t * (3 - 2 * t)


def _band(y: Plane, top: Plane | float, bottom: Plane | float, soft: float) -> Plane:
    """Covers what lies between two curves, with soft edges."""
    below: Plane = ((y - top) / soft + 0.5).clip(0, 1)
    above: Plane = ((bottom - y) / soft + 0.5).clip(0, 1)
    return below * above


def _clouds(rng: Rng, shape: tuple[int, int], cells: int) -> Plane:
    """Draws smooth noise of deviation near 1, with about `cells` blobs along a side."""
    coarse = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32))
    smooth = coarse.resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(smooth, np.float32)


def _strands(across: Plane, rng: Rng, count: int) -> Plane:
    """Draws hair-like lines along the curves of equal `across`, -1 to 1 each."""
    table = rng.uniform(-1, 1, 4 * count).astype(np.float32)
    position = (across * (count / 2) + 2 * count).clip(0, 4 * count - 2)
    whole = np.floor(position)
    index = whole.astype(np.int32)
    lines: Plane = table[index] + (position - whole) * np.diff(table)[index]
    return lines


class _Sitter:
    """The measures and colours of a person's face at some age."""

    def __init__(self, person: Person) -> None:
        t = person.traits
        self.young = young = float(np.clip((17 - person.age) / 13, 0, 1))
        self.old = old = float(np.clip((person.age - 38) / 27, 0, 1))
        self.male = male = float(person.male) * (1 - young)
        self.width = 0.69 + 0.05 * t.face_width + 0.02 * young
        self.chin = 1.0 + 0.06 * t.face_length - 0.06 * young
        self.jaw = 2.15 + 0.3 * t.jaw_width + 0.2 * male + 0.1 * old
        self.chin_width = 0.10 * t.chin_width + 0.05 * male - 0.04
        self.cheeks = 0.02 + 0.035 * t.cheek_fullness + 0.04 * young
        self.eye_y = 0.02 + 0.03 * t.eye_height + 0.08 * young
        self.eye_x = 0.315 + 0.032 * t.eye_spacing
        self.eye_width = 0.150 + 0.020 * t.eye_width + 0.015 * young
        self.eye_opening = max(0.035, 0.070 + 0.019 * t.eye_opening + 0.012 * young - 0.01 * old)
        self.eye_tilt = 0.05 + 0.11 * t.eye_tilt - 0.05 * old
        self.brow_y = self.eye_y - 0.20 - 0.03 * t.brow_height
        self.brow = max(0.012, 0.034 + 0.015 * t.brow_thickness + 0.009 * male - 0.006 * young)
        self.nose_y = self.eye_y + (0.40 + 0.05 * t.nose_length) * (1 - 0.22 * young)
        self.nose_width = (0.128 + 0.032 * t.nose_width + 0.012 * male) * (1 - 0.12 * young)
        self.mouth_y = self.nose_y + (0.205 + 0.03 * t.mouth_height) * (1 - 0.12 * young)
        self.mouth_width = (0.255 + 0.045 * t.mouth_width) * (1 - 0.12 * young)
        self.upper_lip = max(0.016, 0.048 + 0.020 * t.upper_lip - 0.012 * old - 0.008 * male)
        self.lower_lip = max(0.022, 0.070 + 0.025 * t.lower_lip - 0.012 * old - 0.008 * male)
        self.hairline = -0.60 + 0.07 * t.hairline - 0.10 * old * male
        dark = 1 / (1 + np.exp(-1.1 * t.melanin + 0.5))
        skin = _blend(_rgb(0.95, 0.80, 0.71), _rgb(0.47, 0.32, 0.25), dark)
        self.skin = skin * _channels(1 + 0.03 * t.undertone, 1, 1 - 0.09 * t.undertone)
        self.lips = _blend(self.skin * _rgb(0.93, 0.72, 0.74), _rgb(0.6, 0.2, 0.22), 0.25)
        fair = _blend(_rgb(0.80, 0.64, 0.40), _rgb(0.68, 0.33, 0.16), 0.4 + 0.5 * t.hair_redness)
        darkness = 1 / (1 + np.exp(-1.3 * t.hair_darkness - 0.5 - 0.5 * t.melanin))
        natural = _blend(fair, _rgb(0.15, 0.11, 0.09), darkness**0.6)
        self.hair = _blend(natural, _rgb(0.74, 0.73, 0.72), old * 0.5)
        self.brow_hair = _blend(natural, _rgb(0.5, 0.48, 0.46), old * 0.6) * np.float32(0.75)
        pale = _blend(_rgb(0.42, 0.58, 0.72), _rgb(0.44, 0.54, 0.34), 0.5 + 0.5 * t.iris_green)
        brown = 1 / (1 + np.exp(-2.0 * t.iris_darkness - 0.6 * t.melanin))
        self.iris = _blend(pale, _rgb(0.27, 0.16, 0.09), brown)

    def outline(self, angle: Plane) -> Plane:
        """Returns the distance from the origin to the edge of the head at these angles."""
        turn = np.linspace(-np.pi, np.pi, 241)
        cos, sin = np.cos(turn), np.sin(turn)
        power = np.where(sin > 0, self.jaw, 2.2)
        x = self.width * np.sign(cos) * np.abs(cos) ** (2 / power)
        y = np.where(sin > 0, self.chin, 1.0) * np.sign(sin) * np.abs(sin) ** (2 / power)
        # Below the cheeks the face narrows towards the chin; full cheeks bulge.
        x *= 1 - (0.25 - self.chin_width) * np.clip((y - 0.25) / 0.6, 0, 1) ** 1.3
        x *= 1 + self.cheeks * np.exp(-(((y - 0.42) / 0.25) ** 2))
        x *= 1 - 0.05 * np.exp(-(((y + 0.1) / 0.2) ** 2))
        edge = np.interp(angle, np.arctan2(y, x), np.hypot(x, y), period=2 * np.pi)
        return edge.astype(np.float32)


def photograph(person: Person, shot: Shot, side: int, rng: Rng) -> Image.Image:
    """Paints one photo of a person; the generator decides textures and background."""
    return _develop(_Face(person, shot, side, rng).paint(), shot, rng)


class _Face:
    """A face being painted: the pixels' coordinates in the head's frame and on its surface."""

    def __init__(self, person: Person, shot: Shot, side: int, rng: Rng) -> None:
        self.person, self.shot, self.rng = person, shot, rng
        self.sitter = sitter = _Sitter(person)
        self.pixel = 2 / side
        self.soft = max(1.5 * self.pixel / shot.scale, 0.014)
        axis = (np.arange(side, dtype=np.float32) + 0.5) * self.pixel - 1
        across, down = np.meshgrid(axis - shot.centre[0], axis - shot.centre[1])
        cos, sin = float(np.cos(shot.roll)) / shot.scale, float(np.sin(shot.roll)) / shot.scale
        self.x, self.y = x, y = across * cos + down * sin, down * cos - across * sin
        turn = np.float32(np.sin(shot.yaw))
        # The chin sits at the front of the head: a turn of the head moves it sideways.
        leaning = x - turn * 0.22 * _step(y, -0.2, 0.9)
        self.edge = sitter.outline(np.arctan2(y, leaning))
        radius = np.hypot(leaning, y)
        self.rim = radius - self.edge
        self.dome = np.sqrt((1 - (radius / self.edge) ** 2).clip(0.02, 1))
        depth = 0.75 * self.dome
        self.u = x * np.float32(np.cos(shot.yaw)) - (depth - 0.1) * turn
        self.v = y - (depth - 0.4) * np.float32(np.sin(shot.pitch))
        self.a = np.abs(self.u)
        self.nose_u = self.u - turn * 0.16 * _step(self.v, sitter.eye_y, sitter.nose_y)

    def paint(self) -> Plane:
        """Paints the background, the person and the light."""
        canvas = self._background()
        head = (0.5 - self.rim / self.soft).clip(0, 1)
        self._hair_behind(canvas)
        self._neck(canvas)
        self._ears(canvas)
        skin = self._complexion()
        self._lips(skin)
        self._brows(skin)
        self._eyes(skin)
        self._facial_hair(skin)
        skin *= self._shade(self._relief())
        _paint(canvas, skin, head)
        self._hair_in_front(canvas)
        self._glasses(canvas)
        return canvas

    def _rows(self, top: float, bottom: float) -> slice:
        """Returns the rows of pixels between two heights of the face."""
        inside = np.flatnonzero(((self.v > top) & (self.v < bottom)).any(1))
        return slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 1)

    def _background(self) -> Plane:
        rng, shape = self.rng, self.x.shape
        colours = rng.uniform(0.1, 0.9, (3, 3, 1, 1)).astype(np.float32) ** 2
        grey = colours.mean(1, keepdims=True)
        colours = grey + np.float32(rng.uniform(0.1, 0.6)) * (colours - grey)
        share = (0.5 + 0.35 * _clouds(rng, shape, int(rng.integers(3, 7)))).clip(0, 1)
        canvas: Plane = colours[0] + share * (colours[1] - colours[0])
        _paint(canvas, colours[2], _step(_clouds(rng, shape, int(rng.integers(3, 9))), 0.3, 1.6))
        return canvas

    def _lit(self, height: Plane, wrap: float = 0.25) -> Plane:
        """Returns the lamp's light on a relief, in units of lengths, at each pixel."""
        slope_y, slope_x = np.gradient(height, np.float32(self.pixel))
        lx, ly, lz = self.shot.lamp
        facing = (lz - lx * slope_x - ly * slope_y) / np.sqrt(1 + slope_x**2 + slope_y**2)
        lit: Plane = ((facing + wrap) / (1 + wrap)).clip(0, None)
        return lit

    def _shade(self, height: Plane) -> Plane:
        """Returns the coloured light that the skin reflects; shadows on skin are warm."""
        lamp = self._lit(height)
        shot = self.shot
        key = 1.25 * (1 - 0.4 * shot.ambient) * shot.light
        fill = shot.ambient * _channels(1.04, 0.97, 0.96)
        light: Plane = key * lamp + fill + 0.12 * lamp**8
        return light

    def _relief(self) -> Plane:
        """Returns the height of the face towards the camera."""
        s, t, a, v = self.sitter, self.person.traits, self.a, self.v
        u = self.nose_u
        smile = max(0.0, self.shot.smile)
        h: Plane = 0.62 * self.dome - 1.5 * (self.rim + 0.02).clip(0, None)
        rise = _step(v, s.eye_y - 0.12, s.nose_y - 0.05)
        ridge = (0.045 + 0.012 * t.nose_bridge) * (1 - 0.5 * s.young) + 0.10 * rise
        spread = 0.05 + 0.28 * s.nose_width * rise
        fall = _step(v, s.nose_y + 0.03, s.nose_y - 0.07) * _step(v, s.eye_y - 0.25, s.eye_y)
        h += ridge * np.exp(-((u / spread) ** 2)) * fall
        ball = 0.062 + 0.012 * t.nose_tip
        h += 0.05 * _bump(u, v - s.nose_y + 0.055, ball, ball)
        h += 0.045 * _bump(np.abs(u) - 0.75 * s.nose_width, v - s.nose_y + 0.03, 0.038, 0.045)
        sockets = 0.055 + 0.018 * t.eye_depth
        h -= sockets * _bump(a - s.eye_x + 0.05, v - s.eye_y + 0.03, 0.17, 0.10)
        h += 0.035 * _bump(a - s.eye_x, v - s.eye_y + 0.005, 0.11, 0.07)
        h += (0.02 + 0.02 * s.male) * _bump(a - 0.26, v - s.brow_y - 0.02, 0.24, 0.06)
        h += (0.04 + 0.022 * t.cheekbones) * _bump(a - 0.42, v - 0.26, 0.16, 0.14)
        h += 0.03 * smile * _bump(a - 0.36, v - 0.38, 0.13, 0.11)
        fold = a - 0.85 * s.nose_width - (0.05 + 0.5 * (v - s.nose_y + 0.05)) * 0.9
        mask = _band(v, s.nose_y - 0.03, s.mouth_y + 0.03, 0.12)
        h -= (0.004 + 0.018 * s.old + 0.014 * smile) * np.exp(-((fold / 0.03) ** 2)) * mask
        h += 0.03 * _bump(a, v - s.mouth_y, s.mouth_width, 0.13)
        h -= 0.03 * _bump(a, v - s.mouth_y - s.lower_lip - 0.075, 0.14, 0.045)
        h += 0.05 * _bump(a, v - s.chin + 0.13, 0.15, 0.10)
        h -= max(0.0, 0.02 * t.chin_cleft) * _bump(a, v - s.chin + 0.11, 0.018, 0.07)
        h -= 0.012 * _bump(a, v - s.nose_y - 0.08, 0.022, 0.05)
        if s.old > 0.05:
            lines = np.sin((v + 0.05 * a) * 75) * _bump(a, v + 0.38, 0.35, 0.12)
            h += 0.0035 * s.old * lines
            h -= 0.016 * s.old * _bump(a - s.eye_x, v - s.eye_y - 0.13, 0.13, 0.025)
            crow = np.sin((v - s.eye_y) * 90) * _bump(a - s.eye_x - 0.22, v - s.eye_y, 0.06, 0.07)
            h += 0.003 * s.old * crow
        return h

    def _complexion(self) -> Plane:
        """Returns the skin's unlit colour, with shadows that no lamp lights."""
        s, t, a, v = self.sitter, self.person.traits, self.a, self.v
        nose_a = np.abs(self.nose_u)
        skin: Plane = s.skin * (1 + 0.03 * _clouds(self.rng, a.shape, 24))
        flush = 0.30 * _bump(a - 0.38, v - 0.32, 0.17, 0.13)
        flush += 0.25 * _bump(self.nose_u, v - s.nose_y + 0.05, 0.10, 0.08)
        _paint(skin, s.skin * _rgb(1.0, 0.80, 0.78), flush)
        freckled = max(0.0, t.freckles - 0.3) * _bump(a - 0.22, v - 0.25, 0.32, 0.16)
        spots = _step(_clouds(self.rng, a.shape, 64), 0.9, 1.5)
        _paint(skin, s.skin * _rgb(0.80, 0.62, 0.5), (0.6 * freckled * spots).clip(0, 0.8))
        dark = 0.25 * _bump(a - s.eye_x + 0.06, v - s.eye_y + 0.02, 0.17, 0.09)
        dark += (0.10 + 0.2 * s.old) * _bump(a - s.eye_x, v - s.eye_y - 0.12, 0.13, 0.03)
        dark += 0.38 * _bump(self.nose_u, v - s.nose_y - 0.02, 0.9 * s.nose_width, 0.035)
        nostril = nose_a / s.nose_width - 0.48
        dark += 0.75 * _bump(nostril, v - s.nose_y + 0.005, 0.34, 0.018)
        wing = np.hypot(nose_a - 0.68 * s.nose_width, v - s.nose_y + 0.03) - 0.052
        outside = _step(nose_a, 0.6 * s.nose_width, s.nose_width)
        dark += 0.28 * np.exp(-((wing / 0.016) ** 2)) * outside
        dark += 0.28 * _bump(a, v - s.mouth_y - s.lower_lip - 0.055, 0.15, 0.03)
        dark += 0.35 * _step(self.rim, -0.12, 0.02) * _step(v, -0.3, 0.6)
        _paint(skin, s.skin * _rgb(0.50, 0.36, 0.34), dark.clip(0, 0.9))
        return skin

    def _lips(self, skin: Plane) -> None:
        s, shot = self.sitter, self.shot
        rows = self._rows(s.mouth_y - 0.25, s.mouth_y + 0.25)
        skin, v = skin[:, rows], self.v[rows]
        u = self.u[rows] - np.float32(np.sin(shot.yaw)) * 0.06
        width = s.mouth_width * (1 + 0.16 * shot.smile)
        across = (u / width) ** 2
        b = v - s.mouth_y + 0.07 * shot.smile * across
        arch = (1 - across).clip(0, 1)
        gap = 0.045 * shot.mouth_open * arch
        b = b - 0.6 * gap  # the jaw drops, the upper lip stays
        bow = 1 + 0.25 * np.exp(-(((np.abs(u) - 0.06) / 0.045) ** 2))
        upper = s.upper_lip * (1 - 0.2 * max(0.0, shot.smile)) * arch**0.8 * bow
        lower = s.lower_lip * (1 - 0.15 * max(0.0, shot.smile)) * arch**0.6
        soft = 1.6 * self.soft
        inside = (arch * 30).clip(0, 1)
        _paint(skin, s.lips * np.float32(0.82), 0.85 * inside * _band(b, -gap - upper, -gap, soft))
        _paint(skin, s.lips * np.float32(1.08), 0.85 * inside * _band(b, gap, gap + lower, soft))
        shine = _bump(u, b - gap - 0.5 * lower, 0.4 * width, 0.016)
        _paint(skin, s.lips * np.float32(1.6), 0.35 * shine)
        hole = inside * _band(b, -gap, gap, self.soft)
        _paint(skin, _rgb(0.28, 0.10, 0.10), hole)
        teeth = inside * _band(b, -gap, 0.35 * gap, self.soft) * (arch - 0.15).clip(0, 1)
        _paint(skin, _rgb(0.90, 0.87, 0.82), teeth * _step(gap, 0.006, 0.02))
        line = np.exp(-(((np.abs(b) - gap) / 0.013) ** 2)) * (across < 1.05)
        _paint(skin, s.lips * np.float32(0.18), 0.75 * line)
        corner = _bump(np.abs(u) - width, b, 0.025, 0.022)
        _paint(skin, s.skin * np.float32(0.25), 0.5 * corner)

    def _brows(self, skin: Plane) -> None:
        s, t = self.sitter, self.person.traits
        rows = self._rows(s.brow_y - 0.2, s.brow_y + 0.2)
        skin, a = skin[:, rows], self.a[rows]
        along = (a - s.eye_x + 0.01) / 0.19
        middle = s.brow_y - self.shot.brow_raise + 0.035 * (1 + t.brow_arch) * (along - 0.25) ** 2
        b = self.v[rows] - middle + (0.012 + 0.016 * t.brow_slope) * along
        thickness = s.brow * (1.15 - 0.55 * along).clip(0.3, 1.4)
        cover = _band(b, -thickness, thickness, 0.03) * _step(np.abs(along), 1.08, 0.85)
        hairs = 0.75 + 0.35 * _strands(a * 1.5 + b * 1.8, self.rng, 90)
        _paint(skin, s.brow_hair, (cover * hairs).clip(0, 0.95))

    def _eyes(self, skin: Plane) -> None:
        s, shot = self.sitter, self.shot
        rows = self._rows(s.eye_y - 0.22, s.eye_y + 0.22)
        skin, facing = skin[:, rows], np.sign(self.u[rows])
        a = self.a[rows] - s.eye_x
        b = self.v[rows] - s.eye_y + s.eye_tilt * a
        across = (a / s.eye_width) ** 2
        arch = (1 - across).clip(0, 1)
        squint = shot.lids * (1 - 0.18 * max(0.0, shot.smile))
        top = -s.eye_opening * squint * arch**0.7
        bottom = 0.6 * s.eye_opening * arch
        opening = _band(b, top, bottom, self.soft) * (arch * 12).clip(0, 1)
        crease = np.abs(b - top + 0.045 - 0.012 * self.person.traits.eye_opening)
        close = _step(across, 1.6, 0.7)
        _paint(skin, s.skin * np.float32(0.35), 0.5 * close * np.exp(-((crease / 0.012) ** 2)))
        white = _rgb(0.90, 0.88, 0.86) * (1 - 0.45 * _step(b - top, 0.05, 0.0))
        white = white * (1 - 0.35 * across.clip(0, 1))
        _paint(skin, white, opening)
        iris_x = a - facing * shot.gaze
        distance = np.hypot(iris_x, b + 0.012)
        size = 0.070 + 0.006 * s.young
        disc = ((size - distance) / self.soft + 0.5).clip(0, 1) * opening
        glow = 0.75 + 0.5 * _step(b, -0.04, 0.05) - 0.55 * _step(distance, 0.75 * size, size)
        _paint(skin, s.iris * glow, disc)
        pupil = ((0.45 * size - distance) / self.soft + 0.5).clip(0, 1) * opening
        _paint(skin, _rgb(0.05, 0.04, 0.04), pupil)
        flash = iris_x * facing - np.float32(0.03 * np.sign(shot.lamp[0]))
        _paint(skin, _rgb(1.0, 1.0, 1.0), 0.9 * _bump(flash, b + 0.035, 0.016, 0.016) * opening)
        lash = 0.010 + 0.006 * (1 - s.male) + 0.006 * across.clip(0, 1) * (a > 0)
        lid = np.exp(-(((b - top + 0.004) / lash) ** 2)) * (across < 1.15)
        _paint(skin, _rgb(0.14, 0.09, 0.08), 0.88 * lid)
        lower = np.exp(-(((b - bottom) / 0.009) ** 2)) * (across < 1.0)
        _paint(skin, s.skin * np.float32(0.3), 0.5 * lower)
        tear = _bump(a + 0.93 * s.eye_width, b - 0.01, 0.018, 0.012)
        _paint(skin, _rgb(0.75, 0.42, 0.40), 0.7 * tear)

    def _facial_hair(self, skin: Plane) -> None:
        s, p = self.sitter, self.person
        if not p.beard and not p.moustache:
            return
        rows = self._rows(0.1, 1.3)
        skin, a, v, rim = skin[:, rows], self.a[rows], self.v[rows], self.rim[rows]
        grain = (0.7 + 0.3 * _strands(a * 1.3 + 0.2 * v, self.rng, 120)).clip(0, 1)
        grain *= (0.8 + 0.25 * _clouds(self.rng, a.shape, 60)).clip(0.2, 1)
        jaw = _step(v + 0.55 * a**2, s.mouth_y - 0.02, s.mouth_y + 0.22) * _step(a, 0.0, 0.05)
        sides = _step(rim, -0.20, -0.06) * _step(v, 0.15, 0.4)
        chin = _step(v, s.mouth_y + s.lower_lip + 0.02, s.mouth_y + s.lower_lip + 0.10)
        front = np.maximum(jaw, chin) * _step(v, s.mouth_y, s.chin - 0.2)
        beard = p.beard * np.maximum(front, sides)
        lip = s.mouth_y - 1.1 * s.upper_lip
        above = _band(v - 0.12 * a, s.nose_y + 0.045, lip, 0.05)
        above *= _step(a, s.mouth_width + 0.06, s.mouth_width - 0.06)
        cover = np.maximum(beard, p.moustache * above) * grain
        _paint(skin, s.brow_hair, cover.clip(0, 0.9))

    def _neck(self, canvas: Plane) -> None:
        s, x, y = self.sitter, self.x, self.y
        half = 0.40 + 0.07 * s.male - 0.05 * s.young
        width = half + 0.5 * (y - 1.12).clip(0, 1) ** 1.5
        neck = ((width - np.abs(x)) / self.soft + 0.5).clip(0, 1) * (y > 0.3)
        light = self._shade(0.5 * np.sqrt((1 - (x / (1.2 * width)) ** 2).clip(0.05, 1)))
        shadow = 1 - 0.55 * _step(self.rim, 0.35, 0.0)
        _paint(canvas, s.skin * light * shadow, neck)
        cloth = (self.rng.uniform(0.08, 0.85, (3, 1, 1)) ** 2).astype(np.float32)
        collar = self.rng.uniform(1.15, 1.35)
        drop = collar + 0.25 * _step(np.abs(x), half + 0.05, 0.0) * self.rng.uniform(0, 1)
        shirt = ((y - drop + 0.1 * np.abs(x)) / self.soft).clip(0, 1)
        shirt *= np.abs(x) < 1.0 + y - collar
        _paint(canvas, cloth * light * (0.8 + 0.2 * shadow), shirt)

    def _ears(self, canvas: Plane) -> None:
        s, t = self.sitter, self.person.traits
        if self.person.hair_length > 0.5:
            return  # long hair falls over the ears
        size = 0.19 + 0.025 * t.ear_size
        side = self.x * np.float32(1 / (s.width * 0.97))
        turned = np.sign(self.x) * np.float32(np.sin(self.shot.yaw))
        out = (np.abs(side) - 1) * s.width - 0.02 + 0.16 * turned
        middle = self.y - s.eye_y - 0.14
        radius = np.hypot(out / 0.55, middle + 0.25 * out)
        cover = ((size - radius) / self.soft + 0.5).clip(0, 1)
        inner = 1 - 0.5 * _bump(out - 0.02, middle, 0.04, 0.1)
        bowl = np.sqrt((1 - (radius / size) ** 2).clip(0.05, 1))
        _paint(canvas, s.skin * _rgb(0.97, 0.88, 0.87) * inner * self._shade(0.1 * bowl), cover)

    def _hair_colour(self, gloss: float) -> Plane:
        """Returns the hair's colour at every pixel, lit, with strands."""
        t = self.person.traits
        wave = max(0.0, 0.3 + t.hair_wave)
        bend = 0.03 * wave * np.sin(self.y * (7 + 3 * wave) + 5 * np.abs(self.x))
        fan = (self.x - 0.4 * self.person.parting) / (self.y + 2.1).clip(0.4, None) + bend
        lines = 0.6 * _strands(fan * 2, self.rng, 50) + 0.5 * _strands(fan * 2, self.rng, 150)
        body = 0.5 * np.sqrt((1 - (self.x**2 + self.y**2) / 1.7).clip(0.02, 1))
        shine = gloss * _bump(self.x * 0.4, self.y + 0.82 + 0.1 * lines, 0.5, 0.12)
        tone = (0.85 + 0.35 * lines).clip(0.25, 1.7) * (1 + shine)
        colour: Plane = self.sitter.hair * tone * self._shade(body)
        return colour

    def _hair_behind(self, canvas: Plane) -> None:
        p, s = self.person, self.sitter
        if p.hair_length < 0.3:
            return
        wave = max(0.0, p.traits.hair_wave)
        width = s.width + 0.13 + 0.05 * wave + 0.03 * wave * np.sin(self.y * 13)
        width = width * np.sqrt((1 - (self.y.clip(None, -0.35) + 0.35) ** 2 / 0.72).clip(0, 1))
        end = 0.2 + 1.2 * p.hair_length
        cover = ((width - np.abs(self.x)) / (2 * self.soft) + 0.5).clip(0, 1)
        cover *= _step(self.y + 0.1 * self.x**2, end + 0.12, end)
        _paint(canvas, self._hair_colour(0.2) * np.float32(0.7), cover)

    def _hair_in_front(self, canvas: Plane) -> None:
        p, s = self.person, self.sitter
        tone = self._hair_colour(0.5)
        volume = 0.08 + 0.03 * max(0.0, p.traits.hair_wave) + 0.05 * p.hair_length
        volume *= 1 - 0.6 * s.old * s.male
        outer = self.rim - volume * _step(self.y, 0.15 + 0.8 * p.hair_length, -0.35)
        cap = (0.5 - outer / (2 * self.soft)).clip(0, 1)
        # The hairline: highest at the parting, lower with a fringe, and down to the temples.
        lobe = (self.u - 0.5 * p.parting) / s.width
        fringe = p.fringe * (0.18 - 0.1 * s.old)
        line = s.hairline + fringe + 0.04 * _strands(lobe * 1.2, self.rng, 24) * (0.4 + p.fringe)
        temple = 0.55 * (np.abs(self.u / s.width)).clip(0, 1.3) ** (3.5 - p.hair_length)
        receding = 0.22 * s.old * s.male * (1 - lobe.clip(-1, 1) ** 2) - 0.04 * (lobe**2).clip(0, 1)
        line = line + temple - receding + 0.12 * np.abs(lobe) * (1 - p.fringe)
        cover = cap * ((line - self.v) / (3 * self.soft) + 0.5).clip(0, 1)
        shadow = _step(self.v - line, 0.14, 0.0) * (0.5 - self.rim / self.soft).clip(0, 1)
        canvas *= 1 - 0.4 * shadow * (1 - cover)
        burns = 0.10 + 0.35 * p.hair_length
        locks = _step(self.rim, -0.05 - 0.07 * p.hair_length, -0.02 - 0.06 * p.hair_length)
        locks = locks * _step(self.v, burns + 0.25, burns - 0.05) * cap
        _paint(canvas, tone, np.maximum(cover, locks * (self.v < 1.0)))

    def _glasses(self, canvas: Plane) -> None:
        p, s = self.person, self.sitter
        if not (p.glasses and self.shot.glasses):
            return
        rows = self._rows(s.eye_y - 0.25, s.eye_y + 0.25)
        canvas, v = canvas[:, rows], self.v[rows] - s.eye_y
        a = np.abs(self.u[rows] - np.float32(np.sin(self.shot.yaw)) * 0.10)
        ring = np.sqrt(np.sqrt(((a - s.eye_x) / 0.21) ** 4 + ((v - 0.02) / 0.15) ** 4))
        frame = np.exp(-(((ring - 1) * 0.18 / (0.010 + 0.012 * p.glasses)) ** 4))
        bridge = (a < s.eye_x - 0.2) * np.exp(-(((v + 0.02) / 0.018) ** 4))
        arms = (a > s.eye_x + 0.2) * np.exp(-(((v + 0.03) / 0.018) ** 4))
        cover = np.maximum(np.maximum(frame, bridge), arms * (self.rim[rows] < 0.0))
        canvas *= 1 + 0.06 * (ring < 1)
        _paint(canvas, _rgb(0.12, 0.10, 0.10) * np.float32(1 + 6 * (1 - p.glasses)), 0.9 * cover)


def _develop(picture: Plane, shot: Shot, rng: Rng) -> Image.Image:
    """Turns the light into a photo: exposure, white balance, blur and noise."""
    picture = picture * shot.white.astype(np.float32)
    picture = picture / (1 + 0.25 * picture)
    if shot.grey:
        picture = np.repeat(picture.mean(0, keepdims=True), 3, 0)
    pixels = np.sqrt(picture.clip(0, 1))
    grain = shot.noise * rng.standard_normal(pixels.shape[1:], dtype=np.float32)
    pixels = ((pixels + grain).clip(0, 1) * 255).round().astype(np.uint8)
    photo = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    return photo.filter(ImageFilter.GaussianBlur(shot.blur * photo.width / 224))
