"""What a drawn head looks like and where its parts are: proportions, colours, outline, landmarks.

Head units: the middle of the face is (0, 0), the hairline y = -1, the chin y = 1; x to the right as seen in the
picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latentface.apps.drawing_canvas import Colour, mix, random_colour, shaded

CROWN = 1.24  # height of the skull above the middle of the face

# From the palest to the darkest; a head's tone lies between two neighbours.
SKIN_TONES: tuple[Colour, ...] = (
    (252, 226, 209),
    (246, 208, 183),
    (236, 188, 154),
    (218, 164, 124),
    (194, 136, 94),
    (160, 105, 68),
    (124, 78, 50),
    (90, 56, 38),
    (66, 42, 32),
)
HAIR_COLOURS: tuple[Colour, ...] = (
    (28, 22, 22),
    (46, 32, 26),
    (78, 50, 32),
    (120, 76, 44),
    (168, 118, 66),
    (222, 184, 116),
    (164, 72, 36),
    (150, 146, 144),
    (222, 220, 216),
)


@dataclass(frozen=True)
class Look:
    """One person's head, before it is placed."""

    skin: Colour
    hair: Colour
    clothes: Colour
    half_width: float  # of the face, ear to ear
    jaw: float  # 0: round chin, 1: pointed chin
    eye_x: float  # landmarks, seen from the front
    eye_y: float
    nose_y: float
    mouth_x: float
    mouth_y: float
    smile: float  # how far the corners of the mouth are lifted; negative: lowered
    masculine: bool
    yaw: float  # radians, positive: towards the right of the picture
    pitch: float  # how far the features are moved down
    light: tuple[float, float]  # where the light comes from
    small: float  # 0 for a head of 48 px and more, up to 1 at 12 px: fine features are drawn bolder

    def turn(self, points: np.ndarray) -> np.ndarray:
        """Features seen from the front [N, 2] -> on the turned head [N, 2]: a cylinder of radius 1."""
        angle = np.arcsin(np.clip(points[:, 0], -0.98, 0.98)) + self.yaw
        return np.stack([np.sin(np.clip(angle, -np.pi / 2, np.pi / 2)), points[:, 1] + self.pitch], axis=1)

    @property
    def nose_x(self) -> float:
        """The tip stands out of the face, so it moves farther than the rest; before `turn`."""
        return 0.35 * float(np.sin(self.yaw))

    def landmarks(self) -> np.ndarray:
        """[5, 2] left eye, right eye, nose, left and right mouth corner; head units, head turned."""
        corner_y = self.mouth_y - self.smile
        points = [
            (-self.eye_x, self.eye_y),
            (self.eye_x, self.eye_y),
            (self.nose_x, self.nose_y),
            (-self.mouth_x, corner_y),
            (self.mouth_x, corner_y),
        ]
        return self.turn(np.array(points))

    def outline(self, top: float = CROWN, grow: float = 0.0, corners: int = 48) -> np.ndarray:
        """The head [N, 2], from the right temple down over the chin and back over the top.

        `top` is how high it reaches above the middle: 1 for the face as it is annotated, CROWN for the skull.
        """
        angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
        cosine, sine = np.cos(angles), np.sin(angles)
        down = np.clip(sine, 0, 1)
        full = np.abs(cosine) ** (0.82 + 0.25 * self.jaw)
        x = np.sign(cosine) * np.where(sine > 0, full, np.abs(cosine) ** 0.9) * (1 - (0.06 + 0.16 * self.jaw) * down**2)
        return np.stack([x * (self.half_width + grow), np.where(sine > 0, 1 + grow, top + grow) * sine], axis=1)


def random_look(rng: np.random.Generator, height: float) -> Look:
    """Anyone, for a face of `height` picture pixels."""
    position = rng.uniform(0, len(SKIN_TONES) - 1.001)
    tone = int(position)
    skin = shaded(mix(SKIN_TONES[tone], SKIN_TONES[tone + 1], position - tone), rng.uniform(0.95, 1.04))
    mouth_y = rng.uniform(0.5, 0.58)
    angle = rng.uniform(0, 2 * np.pi)
    return Look(
        skin=skin,
        hair=_random_hair_colour(rng, tone),
        clothes=random_colour(rng, (0.1, 0.75), (0.2, 0.95)),
        half_width=rng.uniform(0.7, 0.82),
        jaw=rng.uniform(0, 1),
        eye_x=rng.uniform(0.31, 0.37),
        eye_y=rng.uniform(-0.24, -0.14),
        nose_y=mouth_y - rng.uniform(0.29, 0.35),
        mouth_x=rng.uniform(0.23, 0.32),
        mouth_y=mouth_y,
        smile=float(np.clip(rng.normal(0.05, 0.05), -0.06, 0.13)),
        masculine=bool(rng.random() < 0.5),
        yaw=float(np.clip(rng.normal(0, 0.13), -0.27, 0.27)),
        pitch=float(np.clip(rng.normal(0, 0.035), -0.08, 0.08)),
        light=(float(np.cos(angle)), float(np.sin(angle)) * 0.6 - 0.4),
        small=float(np.clip((48 - height) / 36, 0, 1)),
    )


def _random_hair_colour(rng: np.random.Generator, tone: int) -> Colour:
    """Darker skins have dark or grey hair most of the time; a few people of any tone have it dyed."""
    if rng.random() < 0.05:
        return random_colour(rng, (0.5, 0.9), (0.4, 0.9))
    natural = (0, 1, 2, 7, 8) if tone >= 4 else tuple(range(len(HAIR_COLOURS)))
    return shaded(HAIR_COLOURS[rng.choice(natural)], rng.uniform(0.85, 1.15))
