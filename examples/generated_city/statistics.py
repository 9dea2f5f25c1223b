"""What is where, how often and how big: the numbers in which the two cities differ before any pixel is drawn.

The game city is broad on purpose (domain randomization): a network that learns from it must not lean on one
light, one palette or one camera. The camera city is narrower and sits elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Range = tuple[float, float]


@dataclass(frozen=True)
class DomainStatistics:
    """Ranges are uniform unless said otherwise; shares are probabilities."""

    name: str
    cities: tuple[str, ...]
    seed_key: int
    eye_height: Range
    focal_per_width: Range
    horizon: Range
    yaw_deviation: float
    turned_share: float  # views at a junction, strongly turned
    road_width: Range
    sidewalk_width: Range
    verge_share: float
    curve_share: float
    crossing_share: float
    junction_end_share: float
    styles: dict[str, float]  # center, residential, green, modern
    floors: dict[str, tuple[int, int]]
    parked_share: float
    traffic_gap: Range  # meters between moving vehicles of one lane
    vehicle_mix: dict[str, float]
    tram_share: float
    people_rate: Range  # groups per 10 m of sidewalk, per scene
    group_mean: float
    rider_rate: float
    parked_cycles_rate: float
    tree_gap: Range
    street_tree_share: float
    bare_tree_share: float
    conifer_share: float
    pole_gap: Range
    sign_rate: float
    light_share: float
    fence_share: float
    guardrail_share: float  # sides of the street with a railing at the kerb
    wall_share: float
    bonnet_share: float
    car_colors: tuple[tuple[int, int, int], ...] = field(repr=False)
    tree_library: int = 48  # images per kind, mirrored ones counted


GAME_CITY = DomainStatistics(
    name="game",
    cities=("game",),
    seed_key=1,
    eye_height=(1.15, 1.9),
    focal_per_width=(0.75, 1.25),
    horizon=(0.38, 0.62),
    yaw_deviation=0.06,
    turned_share=0.25,
    road_width=(6.0, 15.0),
    sidewalk_width=(1.5, 5.0),
    verge_share=0.3,
    curve_share=0.4,
    crossing_share=0.45,
    junction_end_share=0.2,
    styles={"center": 0.33, "residential": 0.32, "green": 0.23, "modern": 0.12},
    floors={"center": (2, 6), "residential": (1, 3), "green": (2, 5), "modern": (2, 12)},
    parked_share=0.5,
    traffic_gap=(7.0, 40.0),
    vehicle_mix={"sedan": 0.24, "hatch": 0.24, "estate": 0.12, "suv": 0.14, "van": 0.1, "truck": 0.13, "bus": 0.11},
    tram_share=0.22,
    people_rate=(0.1, 1.6),
    group_mean=1.7,
    rider_rate=1.7,
    parked_cycles_rate=1.0,
    tree_gap=(5.0, 18.0),
    street_tree_share=0.5,
    bare_tree_share=0.4,
    conifer_share=0.12,
    pole_gap=(12.0, 36.0),
    sign_rate=3.0,
    light_share=0.6,
    fence_share=0.5,
    guardrail_share=0.15,
    wall_share=0.25,
    bonnet_share=0.15,
    car_colors=(
        (205, 30, 30), (25, 70, 175), (235, 235, 235), (25, 25, 28), (150, 152, 155), (95, 98, 102),
        (240, 190, 30), (20, 110, 70), (120, 30, 40), (205, 205, 200), (60, 70, 90), (190, 170, 140),
    ),
)  # fmt: skip

CAMERA_CITY = DomainStatistics(
    name="camera",
    cities=("altstadt", "neustadt", "hafen"),
    seed_key=2,
    eye_height=(1.25, 1.4),
    focal_per_width=(1.0, 1.12),
    horizon=(0.42, 0.5),
    yaw_deviation=0.03,
    turned_share=0.12,
    road_width=(7.5, 10.5),
    sidewalk_width=(2.0, 3.5),
    verge_share=0.45,
    curve_share=0.3,
    crossing_share=0.35,
    junction_end_share=0.1,
    styles={"center": 0.3, "residential": 0.15, "green": 0.4, "modern": 0.15},
    floors={"center": (4, 6), "residential": (2, 4), "green": (3, 6), "modern": (4, 9)},
    parked_share=0.8,
    traffic_gap=(12.0, 50.0),
    vehicle_mix={"sedan": 0.12, "hatch": 0.36, "estate": 0.26, "suv": 0.1, "van": 0.08, "truck": 0.08, "bus": 0.06},
    tram_share=0.3,
    people_rate=(0.3, 1.2),
    group_mean=1.4,
    rider_rate=1.5,
    parked_cycles_rate=2.0,
    tree_gap=(5.0, 10.0),
    street_tree_share=0.75,
    bare_tree_share=0.08,
    conifer_share=0.05,
    pole_gap=(12.0, 24.0),
    sign_rate=4.0,
    light_share=0.5,
    fence_share=0.25,
    guardrail_share=0.05,
    wall_share=0.25,
    bonnet_share=1.0,
    car_colors=(
        (70, 72, 76), (30, 31, 34), (120, 123, 128), (165, 168, 170), (45, 52, 70), (200, 200, 198),
        (75, 30, 32), (52, 60, 54), (90, 88, 84),
    ),
)  # fmt: skip
