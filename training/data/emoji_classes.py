"""Which emoji belong to the classes of emoji64 and emoji128."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Record = Mapping[str, Any]  # one emoji of the catalogue: unified, short_name, subcategory, sort_order, ...


@dataclass(frozen=True)
class EmojiClass:
    """What belongs to a class: whole subcategories and emoji of others, without some of both.

    Emoji are short names, parted by spaces; `vendor/name` means only that vendor's picture.
    """

    groups: tuple[str, ...] = ()
    without: str = ""
    also: str = ""

    def takes(self, record: Record, vendor: str) -> bool:
        """Whether the vendor's picture of this emoji belongs to the class."""
        names = {record["short_name"], f"{vendor}/{record['short_name']}"}
        wanted = record["subcategory"] in self.groups or names & set(self.also.split())
        return bool(wanted) and not names & set(self.without.split())


CLASSES: dict[str, EmojiClass] = {
    # Round and yellow, with two eyes and a mouth. Left out: other colours, tears, hands, hearts, stars, glasses, hats,
    # what covers the face, and faces that are tilted or stand on their head.
    "smiley": EmojiClass(
        groups=(
            "face-smiling",
            "face-affection",
            "face-tongue",
            "face-neutral-skeptical",
            "face-sleepy",
            "face-concerned",
            "face-unwell",
            "face-negative",
        ),
        without="melting_face face_in_clouds dotted_line_face shaking_face "
        "head_shaking_horizontally head_shaking_vertically nauseated_face face_vomiting exploding_head "
        "hot_face cold_face imp smiling_imp skull skull_and_crossbones rage face_with_symbols_on_mouth "
        "joy sweat_smile innocent yum heart_eyes sweat kissing_heart cry triumph disappointed_relieved "
        "fearful sleepy sob face_exhaling cold_sweat scream sleeping dizzy_face face_with_spiral_eyes mask "
        "upside_down_face zipper_mouth_face face_with_thermometer face_with_head_bandage "
        "rolling_on_the_floor_laughing drooling_face lying_face sneezing_face star-struck zany_face "
        "smiling_face_with_3_hearts yawning_face smiling_face_with_tear face_holding_back_tears money_mouth_face "
        "oreo/angry oreo/tired_face",
    ),
    # Left out: tears, and hearts for eyes.
    "cat face": EmojiClass(
        groups=("cat-face",), also="google/cat twitter/cat", without="joy_cat crying_cat_face heart_eyes_cat"
    ),
    # One whole heart of one colour. Left out: several hearts, hearts on a letter or a sign, over a dot, in flames,
    # broken, bandaged, with a bow, an arrow or sparks.
    "heart": EmojiClass(
        groups=("heart",),
        without="love_letter two_hearts revolving_hearts heart_decoration heart_on_fire "
        "heavy_heart_exclamation_mark_ornament broken_heart mending_heart gift_heart cupid sparkling_heart "
        "heartbeat heartpulse",
    ),
    # Round faces with round ears, from the front; whole animals have thin legs and as many postures as there are
    # animals. Left out: long ears, long faces, antlers, and what is white on white or sits on a branch.
    "animal face": EmojiClass(
        also="monkey_face dog raccoon lion_face tiger cow pig mouse hamster bear twitter/polar_bear koala panda_face",
        without="nougat/koala",
    ),
    # Whole birds from the side, looking to the left. Left out: other views, thin or fanned ones, white on white.
    "bird": EmojiClass(
        groups=("animal-bird",),
        without="feather wing hatching_chick hatched_chick chicken eagle peacock phoenix penguin owl dove_of_peace "
        "swan flamingo parrot turkey emojione/duck",
    ),
    # Fish from the side, and the dolphin: nothing with arms, claws or a shell. Whales are a shape of their own.
    "fish": EmojiClass(
        groups=("animal-marine",),
        without="shell coral oyster octopus jellyfish crab lobster shrimp squid seal whale whale2 emojione/dolphin",
    ),
    # An open blossom or a single stem. white_flower is a stamp for good homework.
    "flower": EmojiClass(groups=("plant-flower",), without="white_flower bouquet wilted_flower"),
    # Green and growing: no thin or dead leaves, bare branches, nests, toadstools or ripe ears.
    "plant": EmojiClass(
        groups=("plant-other",),
        without="seedling herb ear_of_rice maple_leaf fallen_leaf leaves leafless_tree mushroom empty_nest "
        "nest_with_eggs",
        also="christmas_tree",
    ),
    # Whole and round: nothing sliced or curved.
    "fruit": EmojiClass(
        groups=("food-fruit",), without="olive melon watermelon banana pineapple blueberries kiwifruit coconut"
    ),
    # One glass, upright; milk is white on white.
    "drink": EmojiClass(
        groups=("drink",),
        without="baby_bottle teapot sake champagne beers clinking_glasses pouring_liquid ice_cube coffee tea "
        "beverage_box mate_drink glass_of_milk",
    ),
    # Cars, buses and lorries from the side: no front views, cycles, trains, tractors or racing cars.
    "vehicle": EmojiClass(
        also="car blue_car taxi police_car pickup_truck bus trolleybus minibus ambulance fire_engine truck "
        "articulated_lorry",
    ),
    "boat": EmojiClass(groups=("transport-water",), without="ring_buoy anchor canoe speedboat"),
    # The disc in its phases. Crescents alone are thin.
    "moon": EmojiClass(
        also="new_moon waxing_crescent_moon first_quarter_moon moon full_moon waning_gibbous_moon "
        "last_quarter_moon waning_crescent_moon new_moon_with_face full_moon_with_face",
    ),
    # Sun and clouds.
    "weather": EmojiClass(
        also="sunny sun_with_face cloud partly_sunny thunder_cloud_and_rain mostly_sunny barely_sunny "
        "partly_sunny_rain rain_cloud snow_cloud lightning",
    ),
    # A dial at the full hour, so that the long hand points upwards.
    "clock": EmojiClass(also="clock1 clock2 clock3 clock4 clock5 clock6 clock7 clock8 clock9 clock10 clock11 clock12"),
    # One flag for each design: those left out are twins of others. Nepal's is no rectangle.
    "flag": EmojiClass(
        groups=("country-flag", "subdivision-flag"),
        without="flag-cp flag-mf flag-ea flag-dg flag-bv flag-sj flag-hm flag-um flag-sark flag-mc flag-td flag-np",
        also="rainbow-flag transgender_flag pirate_flag",
    ),
    # Head and shoulders from the front, by one hand. Left out: whole figures, profiles, heads alone, hidden faces,
    # large tools, monsters.
    "person": EmojiClass(
        groups=("person", "person-role"),
        without="teacher male-teacher female-teacher technologist male-technologist female-technologist "
        "astronaut male-astronaut female-astronaut factory_worker male-factory-worker female-factory-worker "
        "farmer male-farmer female-farmer singer male-singer female-singer scientist male-scientist female-scientist "
        "sleuth_or_spy male-detective female-detective ninja "
        "baby child boy adult older_man older_woman older_adult prince princess person_with_crown "
        "pregnant_woman pregnant_man pregnant_person "
        "breast-feeding woman_feeding_baby man_feeding_baby person_feeding_baby",
        also="elf female_elf male_elf vampire female_vampire male_vampire",
    ),
}
